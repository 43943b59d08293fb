// A stack of its own and the place on it to continue at (x86-64, System V ABI). AddressSanitizer is
// told of every switch.
#pragma once
#include <cstddef>

namespace emulation {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next resume() calls entry(), which must end with a call of finish().
  void start(void (*entry)());
  void resume();  // from the scheduler: until the fiber pauses
  void pause();   // from the fiber: until the scheduler resumes it
  [[noreturn]] void finish();
  // To be the first call of entry().
  void entered();

 private:
  void leave(bool for_good);
  char* memory_;  // a guard page, then the stack
  void* stack_pointer_ = nullptr;
  void* fake_stack_ = nullptr;  // AddressSanitizer's
};

}  // namespace emulation
