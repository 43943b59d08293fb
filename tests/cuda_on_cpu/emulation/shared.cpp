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
constexpr size_t kSavedAlignment = 16;  // as std::vector's memory is

struct Variable {
  unsigned char* at;
  size_t bytes, offset;  // offset: in statics_
  std::string name;
};

struct Symbols {
  std::vector<Variable> shared;
  size_t shared_bytes = 0;
  std::map<const unsigned char*, std::string> functions;
};

// The kernels are linked into one file with this, a program or a library: its symbols are read
// from disk.
Symbols read_symbols() {
  static const char here = 0;
  Dl_info module;
  if (!dladdr(&here, &module)) abort();
  auto* const base = static_cast<unsigned char*>(module.dli_fbase);
  std::ifstream file(module.dli_fname, std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
  const auto* header = reinterpret_cast<const ElfW(Ehdr)*>(bytes.data());
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
      // Saved, a variable is as aligned as in its place.
      unsigned char* at = base + symbol.st_value;
      while (result.shared_bytes % kSavedAlignment !=
             reinterpret_cast<uintptr_t>(at) % kSavedAlignment)
        ++result.shared_bytes;
      result.shared.push_back({at, symbol.st_size, result.shared_bytes, name});
      result.shared_bytes += symbol.st_size;
    }
  }
  if (result.functions.empty()) {
    fprintf(stderr, "the program was stripped: its __shared__ variables cannot be found\n");
    abort();
  }
  return result;
}

const Symbols& symbols() {
  static const Symbols result = read_symbols();
  return result;
}

const Variable* variable_at(const void* address) {
  const auto* at = static_cast<const unsigned char*>(address);
  for (const Variable& variable : symbols().shared)
    if (at >= variable.at && at < variable.at + variable.bytes) return &variable;
  return nullptr;
}

void poison_statics() {
  for (const Variable& variable : symbols().shared) memset(variable.at, poison, variable.bytes);
}

}  // namespace

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
  memset(memory_, kRedZoneByte, allocated_);
  ASAN_POISON_MEMORY_REGION(memory_, kRedZone);
  ASAN_POISON_MEMORY_REGION(dynamic_ + dynamic_bytes, allocated_ - kRedZone - dynamic_bytes);
  if (!alone) statics_.resize(symbols().shared_bytes);
}

void SharedMemory::start() {
  memset(dynamic_, poison, dynamic_bytes_);
  if (alone_)
    poison_statics();
  else
    std::fill(statics_.begin(), statics_.end(), poison);
}

bool SharedMemory::untouched() const {
  const auto poisoned = [](unsigned char byte) { return byte == poison; };
  return std::all_of(dynamic_, dynamic_ + dynamic_bytes_, poisoned) &&
         std::all_of(statics_.begin(), statics_.end(), poisoned);
}

bool SharedMemory::intact() const {
#if !defined(__SANITIZE_ADDRESS__)  // which has seen to it
  for (const unsigned char* at = memory_; at < memory_ + allocated_; ++at)
    if ((at < dynamic_ || at >= dynamic_ + dynamic_bytes_) && *at != kRedZoneByte) return false;
#endif
  return true;
}

void SharedMemory::swap_in() {
  if (alone_ || inside_) return;
  inside_ = true;
  for (const Variable& v : symbols().shared) memcpy(v.at, statics_.data() + v.offset, v.bytes);
}

void SharedMemory::swap_out() {
  if (alone_ || !inside_) return;
  inside_ = false;
  for (const Variable& v : symbols().shared) memcpy(statics_.data() + v.offset, v.at, v.bytes);
}

void SharedMemory::end() {
  memset(dynamic_, poison, dynamic_bytes_);
  if (!alone_) poison_statics();
}

unsigned char* SharedMemory::counterpart(const void* address, const SharedMemory& running) {
  const auto* at = static_cast<const unsigned char*>(address);
  if (at >= running.dynamic_ && at < running.dynamic_ + running.dynamic_bytes_)
    return dynamic_ + (at - running.dynamic_);
  const Variable* variable = variable_at(address);
  return variable ? statics_.data() + variable->offset + (at - variable->at) : nullptr;
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
    if (variable.name.rfind(prefix, 0) == 0) bytes += variable.bytes;
  return bytes;
}

const char* mangled_name(const void* function) {
  const auto found = symbols().functions.find(static_cast<const unsigned char*>(function));
  return found == symbols().functions.end() ? "" : found->second.c_str();
}

}  // namespace emulation
