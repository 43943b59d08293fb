#include "shared.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <string>

#include "emulation.h"
#include "shared_of_function.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes)
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes)
#endif

namespace emulation {

int poison = kPoison;

namespace {

constexpr size_t kRedZone = 1024;  // a multiple of the strictest alignment, that of wgmma's tiles
constexpr int kRedZoneByte = 0xcd;
constexpr size_t kSavedAlignment = 16;                    // as std::vector's memory is
constexpr char kMark[] = "emulation_shared_of_function";  // in types.h

struct Variable {
  unsigned char* at;
  size_t bytes;
  std::string name;
};

struct Symbols {
  std::vector<Variable> shared, marks;
  std::map<const unsigned char*, std::string> functions;
};

[[noreturn]] void give_up(const std::string& file, const char* why) {
  fprintf(stderr, "%s %s: its __shared__ variables cannot be found\n", file.c_str(), why);
  fflush(nullptr);
  abort();
}

// The kernels are linked into one file with this, a program or a library: its symbols are read
// from disk.
Symbols read_symbols() {
  static const char here = 0;
  Dl_info place;
  link_map* module;
  if (!dladdr1(&here, &place, reinterpret_cast<void**>(&module), RTLD_DL_LINKMAP)) abort();
  auto* const base = reinterpret_cast<unsigned char*>(module->l_addr);
  const std::string path = *module->l_name ? module->l_name : "/proc/self/exe";
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
  const auto* header = reinterpret_cast<const ElfW(Ehdr)*>(bytes.data());
  if (bytes.size() < sizeof(*header) || memcmp(header->e_ident, ELFMAG, SELFMAG) != 0)
    give_up(path, "cannot be read");
  const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(bytes.data() + header->e_shoff);

  Symbols result;
  for (int s = 0; s < header->e_shnum; ++s) {
    if (sections[s].sh_type != SHT_SYMTAB) continue;
    const auto* symbols = reinterpret_cast<const ElfW(Sym)*>(bytes.data() + sections[s].sh_offset);
    const char* names = bytes.data() + sections[sections[s].sh_link].sh_offset;
    for (size_t i = 0; i < sections[s].sh_size / sizeof(ElfW(Sym)); ++i) {
      const auto& symbol = symbols[i];
      const std::string name = names + symbol.st_name;
      const int type = ELF64_ST_TYPE(symbol.st_info);
      if (symbol.st_shndx == SHN_UNDEF || symbol.st_shndx >= header->e_shnum) continue;
      if (type == STT_FUNC) result.functions[base + symbol.st_value] = name;
      const bool writable = sections[symbol.st_shndx].sh_flags & SHF_WRITE;
      if (type != STT_OBJECT || !writable || name.rfind("_ZZN5gdext4cuda", 0) != 0) continue;
      auto& kind = name.find(kMark) == name.npos ? result.shared : result.marks;
      kind.push_back({base + symbol.st_value, symbol.st_size, name});
    }
  }
  if (result.functions.empty()) give_up(path, "was stripped");
  return result;
}

const Symbols& symbols() {
  static const Symbols result = read_symbols();
  return result;
}

std::vector<const Variable*> used;  // by the launch under way

const Variable* variable_at(const void* address) {
  const auto* at = static_cast<const unsigned char*>(address);
  for (const Variable* variable : used)
    if (at >= variable->at && at < variable->at + variable->bytes) return variable;
  return nullptr;
}

void poison_statics() {
  for (const Variable* variable : used) memset(variable->at, poison, variable->bytes);
}

bool all_are(const unsigned char* at, size_t bytes, int value) {
  return bytes == 0 || (*at == value && memcmp(at, at + 1, bytes - 1) == 0);
}

// "_ZZ<function>E" of "_ZZ<function>E<length><variable>".
std::string function_of(const Variable& mark) {
  const std::string variable = std::to_string(sizeof(kMark) - 1) + kMark;
  return mark.name.substr(0, mark.name.find(variable));
}

bool begins_with(const std::string& text, const std::string& start) {
  return text.rfind(start, 0) == 0;
}

}  // namespace

long shared_launch = 0;

void forget_used_shared() {
  ++shared_launch;
  used.clear();
}

void SharedOfFunction::used_first() {
  launch_ = shared_launch;
  const auto mark = std::find_if(symbols().marks.begin(), symbols().marks.end(), [&](auto& m) {
    return m.at == reinterpret_cast<unsigned char*>(this);
  });
  if (mark == symbols().marks.end())
    fail("a __shared__ variable that is not directly in a function of namespace gdext::cuda",
         Where::current());
  const std::string function = function_of(*mark);
  for (const Variable& variable : symbols().shared) {
    if (!begins_with(variable.name, function)) continue;
    if (std::find(used.begin(), used.end(), &variable) != used.end()) continue;
    used.push_back(&variable);
    memset(variable.at, poison, variable.bytes);
  }
}

SharedMemory::Saved::Saved(size_t variable)
    : memory(used[variable]->bytes + kSavedAlignment, poison),
      at(memory.data() + reinterpret_cast<uintptr_t>(used[variable]->at) % kSavedAlignment),
      bytes(used[variable]->bytes) {}  // as aligned as the variable is

void SharedMemory::save_all_used() {
  while (saved_.size() < used.size()) saved_.emplace_back(saved_.size());
}

SharedMemory::~SharedMemory() {
  ASAN_UNPOISON_MEMORY_REGION(memory_, allocated_);
  free(memory_);
}

void SharedMemory::prepare(size_t dynamic_bytes, bool alone) {
  alone_ = alone;
  inside_ = false;
  dynamic_bytes_ = dynamic_bytes;
  const size_t rounded = (dynamic_bytes + kRedZone - 1) / kRedZone * kRedZone;
  const size_t wanted = rounded + 2 * kRedZone;
  if (wanted > allocated_) {
    ASAN_UNPOISON_MEMORY_REGION(memory_, allocated_);
    free(memory_);
    memory_ = static_cast<unsigned char*>(aligned_alloc(kRedZone, wanted));
    allocated_ = wanted;
  }
  ASAN_UNPOISON_MEMORY_REGION(memory_, allocated_);
  dynamic_ = memory_ + kRedZone;
  after_ = dynamic_ + dynamic_bytes;
  memset(memory_, kRedZoneByte, kRedZone);
  memset(after_, kRedZoneByte, memory_ + allocated_ - after_);
  // Other blocks may read a block's before it begins.
  if (!alone) memset(dynamic_, poison, dynamic_bytes);
  ASAN_POISON_MEMORY_REGION(memory_, kRedZone);
  ASAN_POISON_MEMORY_REGION(after_, allocated_ - kRedZone - dynamic_bytes);
  saved_.clear();
}

void SharedMemory::start() {
  memset(dynamic_, poison, dynamic_bytes_);
  if (alone_) poison_statics();
  for (Saved& saved : saved_) memset(saved.at, poison, saved.bytes);
}

bool SharedMemory::untouched() const {
  return all_are(dynamic_, dynamic_bytes_, poison) &&
         std::all_of(saved_.begin(), saved_.end(),
                     [](const Saved& saved) { return all_are(saved.at, saved.bytes, poison); });
}

bool SharedMemory::intact() const {
#if !defined(__SANITIZE_ADDRESS__)  // which has seen to it
  return all_are(memory_, kRedZone, kRedZoneByte) &&
         all_are(after_, memory_ + allocated_ - after_, kRedZoneByte);
#endif
  return true;
}

void SharedMemory::swap_in() {
  if (alone_ || inside_) return;
  inside_ = true;
  save_all_used();
  auto saved = saved_.begin();
  for (const Variable* v : used) memcpy(v->at, (saved++)->at, v->bytes);
}

void SharedMemory::swap_out() {
  if (alone_ || !inside_) return;
  inside_ = false;
  save_all_used();
  auto saved = saved_.begin();
  for (const Variable* v : used) memcpy((saved++)->at, v->at, v->bytes);
}

void SharedMemory::end() {
  memset(dynamic_, poison, dynamic_bytes_);
  if (!alone_) poison_statics();
}

unsigned char* SharedMemory::counterpart(const void* address, const SharedMemory& running) {
  const auto* at = static_cast<const unsigned char*>(address);
  if (at >= running.dynamic_ && at < running.dynamic_ + running.dynamic_bytes_)
    return dynamic_ + (at - running.dynamic_);
  save_all_used();
  auto saved = saved_.begin();
  for (const Variable* variable : used) {
    if (at >= variable->at && at < variable->at + variable->bytes)
      return saved->at + (at - variable->at);
    ++saved;
  }
  return nullptr;
}

bool in_static_shared(const void* address, size_t bytes) {
  const Variable* variable = variable_at(address);
  return variable &&
         static_cast<const unsigned char*>(address) + bytes <= variable->at + variable->bytes;
}

size_t static_shared_bytes_of(const char* function) {
  if (strncmp(function, "_Z", 2) != 0) return 0;
  const std::string prefix = std::string("_ZZ") + (function + 2) + "E";
  size_t bytes = 0;
  for (const Variable& variable : symbols().shared)
    if (begins_with(variable.name, prefix)) bytes += variable.bytes;
  return bytes;
}

const char* mangled_name(const void* function) {
  const auto found = symbols().functions.find(static_cast<const unsigned char*>(function));
  return found == symbols().functions.end() ? "" : found->second.c_str();
}

}  // namespace emulation
