// peak on CUDA (contract/peak.h).
#include "contract/peak.h"
#include "cuda/common.cuh"

namespace gdext::cuda {
namespace {

// a and b are arguments so that the compiler cannot tell what comes out.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    fma_kernel(T a, T b, int64_t threads, int64_t repeats, T* out) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (thread >= threads) return;
  T v[kFmaChains];
#pragma unroll
  for (int j = 0; j < kFmaChains; ++j) v[j] = T(j);
#pragma unroll 16
  for (int64_t r = 0; r < repeats; ++r)
#pragma unroll
    for (int j = 0; j < kFmaChains; ++j) v[j] = v[j] * a + b;
  T sum = T(0);
#pragma unroll
  for (int j = 0; j < kFmaChains; ++j) sum += v[j];
  out[thread] = sum;
}

// Each thread comes back to the elements it had before: from whichever cache still holds them.
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    update_kernel(float a, int64_t packs, int64_t repeats, Pack<float, 4>* p,
                  const Pack<float, 4>* g) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kThreads;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t r = 0; r < repeats; ++r)
#pragma unroll 4
    for (int64_t i = first; i < packs; i += threads) {
      Pack<float, 4> of_p = p[i];
      const Pack<float, 4> of_g = g[i];
#pragma unroll
      for (int j = 0; j < 4; ++j) of_p.value[j] -= a * of_g.value[j];
      p[i] = of_p;
    }
}

}  // namespace

void fma_work(const FmaWork& work, Context context) {
  const auto start = [&](auto tag) {
    using T = decltype(tag);
    launch("fma_work", fma_kernel<T>, ceil_div(work.threads, kThreads), kThreads, context, T(0.5),
           T(1), work.threads, work.repeats, static_cast<T*>(work.out));
  };
  work.dtype == DType::f64 ? start(double{}) : start(float{});
}

void update_work(const UpdateWork& work, Context context) {
  constexpr int64_t kMostBlocks = 4096;
  const int64_t packs = work.n / 4, blocks = ceil_div(packs, kThreads);
  launch("update_work", update_kernel, blocks < kMostBlocks ? blocks : kMostBlocks, kThreads,
         context, 1.0f / 64, packs, work.repeats, reinterpret_cast<Pack<float, 4>*>(work.p),
         reinterpret_cast<const Pack<float, 4>*>(work.g));
}

}  // namespace gdext::cuda
