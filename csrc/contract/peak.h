// peak: what the processor can do at most, measured, for benchmarks to compare with. The CPU
// backend runs the instruction set in use (GDEXT_CPU_ISA) on as many threads as the kernels do, and
// takes the time itself:
//
// fma_peak: every thread repeats v <- v a + b on vectors that stay in registers, enough of them for
// their latencies to overlap. A multiply-add counts as 2 operations per element. An instruction set
// without fused multiply-add multiplies, then adds.
//
// bandwidth: every thread repeats p <- p - a g over its own share of two float32 arrays that fill
// `bytes` together: the traffic of an SGD update, two reads and one write. Small arrays stay in the
// caches, large ones do not.
//
// Both run for about `seconds`, in pieces of some milliseconds, and report the fastest piece:
// whatever else the machine did can only have slowed the others down.
//
// On CUDA the same two are work that a launch does `repeats` times, as fma_work and update_work;
// the time is taken by the caller, who has the stream's events.
#pragma once
#include "contract/common.h"

namespace gdext {

struct FmaPeakArgs {
  DType dtype;  // f32 or f64
  double seconds;
  double* rate;  // [1] operations per second, all threads together; out
};

struct BandwidthArgs {
  int64_t bytes;
  double seconds;
  double* rate;  // [1] bytes read and written per second, all threads together; out
};

// out[t] = the sum over j of v[j], where each of kFmaChains numbers starts as v[j] = j and becomes
// a v[j] + b `repeats` times, a = 0.5, b = 1: 2 threads kFmaChains repeats operations.
constexpr int kFmaChains = 8;
struct FmaWork {
  DType dtype;      // f32 or f64
  int64_t threads;  // in all
  int64_t repeats;
  void* out;  // [threads] overwritten
};

// p[i] <- p[i] - a g[i] `repeats` times, a = 1/64: 12 n repeats bytes.
struct UpdateWork {
  int64_t n;  // a multiple of 4
  int64_t repeats;
  float* p;        // [n] updated; aligned to 16 bytes, as g is
  const float* g;  // [n]
};

namespace cpu {
void fma_peak(const FmaPeakArgs&, Context);
void bandwidth(const BandwidthArgs&, Context);
}  // namespace cpu
namespace cuda {
void fma_work(const FmaWork&, Context);
void update_work(const UpdateWork&, Context);
}  // namespace cuda

}  // namespace gdext
