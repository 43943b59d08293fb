// Threads and scratch memory for the CPU kernels, without saying whose threads they are: csrc/torch
// hands in PyTorch's pool, a test of the kernels alone may hand in a plain loop.
#pragma once
#include <cstddef>
#include <cstdint>

namespace gdext::cpu {

// Calls body(context, begin, end) over disjoint ranges that cover [begin, end), none (but the last)
// shorter than grain, perhaps on several threads. An exception in a range reaches the caller, but
// perhaps as another type (PyTorch's pool makes a std::runtime_error of it): kernels check their
// arguments before they start.
using ParallelFor = void (*)(int64_t begin, int64_t end, int64_t grain,
                             void (*body)(const void* context, int64_t begin, int64_t end),
                             const void* context);
void set_parallel_for(ParallelFor function, int (*thread_count)());

void parallel_for_raw(int64_t begin, int64_t end, int64_t grain,
                      void (*body)(const void*, int64_t, int64_t), const void* context);
int thread_count();

template <class F>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const F& f) {
  if (end - begin <= grain) {
    if (begin < end) f(begin, end);
    return;
  }
  parallel_for_raw(
      begin, end, grain,
      [](const void* context, int64_t b, int64_t e) { (*static_cast<const F*>(context))(b, e); },
      &f);
}

// At least `bytes` bytes, aligned to a cache line, that belong to the calling thread until its next
// call. They are kept between calls, so that a training loop allocates them once.
void* scratch(size_t bytes);

}  // namespace gdext::cpu
