// Reductions over a whole tensor, in two stages (contract/common.h): every block of a first kernel
// writes a float64 partial sum into the caller's workspace, a second kernel of one block adds them.
#pragma once
#include "cuda/common.cuh"

namespace gdext::cuda {

// Blocks of the first kernel, each taking kThreads / threads_per_item items at a time. At least
// one, so that sums over nothing are written too.
inline int64_t reduction_blocks(int64_t items, int threads_per_item) {
  const int64_t blocks = ceil_div(items, kThreads / threads_per_item);
  return blocks < 1 ? 1 : blocks < kPartials ? blocks : kPartials;
}

// All threads of the block must call it.
__device__ inline void store_partial(double* partials, double of_thread) {
  const double of_block = block_reduce(of_thread, Sum{});
  if (threadIdx.x == 0) partials[blockIdx.x] = of_block;
}
__device__ inline double add_partials(const double* partials, int64_t count) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += partials[i];
  return block_reduce(sum, Sum{});
}

// The sum of `rows` elements, `stride` apart, of the column of each lane, on the lanes of the first
// warp. All kSumThreads threads of the block must call it: its warps take the rows in turn, in
// kSums interleaved sums each, which are added in a fixed order.
constexpr int kSumThreads = 1024;
template <class T>
__device__ acc_t<T> sum_of_column(const T* column, int64_t stride, int64_t rows) {
  using A = acc_t<T>;
  constexpr int kWarps = kSumThreads / kWarp, kSums = 4;
  __shared__ A of_warp[kWarps][kWarp];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  A sum[kSums] = {};
#pragma unroll 1
  for (int64_t first = warp; first < rows; first += kWarps * kSums) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      const int64_t row = first + i * kWarps;
      if (row < rows) sum[i] += static_cast<A>(column[row * stride]);
    }
  }
  of_warp[warp][lane] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  __syncthreads();
  A total = A(0);
  if (warp == 0)
#pragma unroll 4
    for (int w = 0; w < kWarps; ++w) total += of_warp[w][lane];
  return total;
}

// loss = sum of partials (/ norm if mean). The mean's norm is `size`, or, if weighted, the sum of
// the second kPartials partials; any other reduction's is 1.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    finish_loss_kernel(const double* partials, int64_t count, Reduction reduction, bool weighted,
                       double size, T* loss, acc_t<T>* norm) {
  const double sum = add_partials(partials, count);
  const double weights = weighted ? add_partials(partials + kPartials, count) : size;
  if (threadIdx.x != 0) return;
  const double divisor = reduction == Reduction::mean ? weights : 1.0;
  *norm = static_cast<acc_t<T>>(divisor);
  *loss = T(static_cast<acc_t<T>>(sum / divisor));
}

// gdy = sum of partials
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    finish_gdy_kernel(const double* partials, int64_t count, T* gdy) {
  const double sum = add_partials(partials, count);
  if (threadIdx.x == 0) *gdy = T(static_cast<acc_t<T>>(sum));
}

}  // namespace gdext::cuda
