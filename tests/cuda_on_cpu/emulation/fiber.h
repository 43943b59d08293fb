// A stack of its own and the place on it to continue at (x86-64, System V ABI). AddressSanitizer is
// told of neither: it must not poison what is on stacks (asan-stack=0).
#pragma once
#include <cstddef>

namespace emulation {

// Where code goes on; what else it keeps in registers the compiler saves (switch_to's clobbers).
struct Context {
  void *stack_pointer, *frame_pointer, *rbx, *instruction;
};

// Saves where this returns to in `from`, and goes on where `to` says. Inline and without a `ret`:
// processors foresee returns by the calls before them, which were made on another stack.
inline __attribute__((always_inline)) void switch_to(Context* from, const Context* to) {
  asm volatile(R"(
    leaq 1f(%%rip), %%rcx
    movq %%rsp, (%0)
    movq %%rbp, 8(%0)
    movq %%rbx, 16(%0)
    movq %%rcx, 24(%0)
    movq (%1), %%rsp
    movq 8(%1), %%rbp
    movq 16(%1), %%rbx
    jmpq *24(%1)
    1:
  )"
               : "+a"(from), "+d"(to)
               :
               : "rcx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "cc",
                 "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                 "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
#if defined(__AVX512F__)
                 ,
                 "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24",
                 "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31", "k1", "k2", "k3",
                 "k4", "k5", "k6", "k7"
#endif
  );
}

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next resume() calls entry(), which must not return: its last pause() is its end.
  void start(void (*entry)());
  void resume() { switch_to(&scheduler_, &context_); }  // until the fiber pauses
  void pause() { switch_to(&context_, &scheduler_); }   // until the scheduler resumes it

 private:
  static Context scheduler_;
  Context context_;
  char* memory_;  // a guard page, then the stack
  char* top_;
};

}  // namespace emulation
