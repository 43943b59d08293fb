// peak: what the processor can do at most, measured, for benchmarks to compare with. Nothing is
// computed that anyone wants, so there is a CPU backend alone: it runs the instruction set in use
// (GDEXT_CPU_ISA) on as many threads as the kernels do.
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

namespace cpu {
void fma_peak(const FmaPeakArgs&, Context);
void bandwidth(const BandwidthArgs&, Context);
}  // namespace cpu

}  // namespace gdext
