#include "fiber.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

// AddressSanitizer's code calls it before what does not return. Its own would clear the poison from
// the stack, of which there is none, and warn that this is not the stack that it knows.
extern "C" __attribute__((visibility("hidden"))) void __asan_handle_no_return() {}

namespace emulation {
namespace {

constexpr size_t kPageBytes = 4096;
constexpr size_t kStackBytes = 64 * 1024;
constexpr size_t kMemoryBytes = kPageBytes + kStackBytes;

// Stacks begin at different places of their pages: else the threads' frames would share the few
// lines of the first-level cache that go with one place.
size_t next_place() {
  constexpr size_t kStep = 5 * 64;
  static size_t place = 0;
  return place = (place + kStep) % kPageBytes;
}

}  // namespace

Context Fiber::scheduler_;

Fiber::Fiber() {
  void* memory = mmap(nullptr, kMemoryBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kPageBytes, PROT_NONE) != 0) {
    perror("no stack for an emulated thread");
    abort();
  }
  memory_ = static_cast<char*>(memory);
  top_ = memory_ + kMemoryBytes - next_place();
}

Fiber::~Fiber() { munmap(memory_, kMemoryBytes); }

void Fiber::start(void (*entry)()) {
  auto** return_address = reinterpret_cast<void**>(top_) - 1;  // unused: the ABI wants it there
  *return_address = nullptr;
  context_ = {return_address, nullptr, nullptr, reinterpret_cast<void*>(entry)};
}

}  // namespace emulation
