// gemm where one operand has few lines (small batches, few classes): the other is read once, and
// that is what takes the time.
//
// `few` has at most kFew lines along k, `many` any number; C's element (few line f, many line l) is
// (f, l) or, where `few` is B, (l, f). Two kernels, by how `many` lies in memory; no atomics: sums
// are taken in an order that depends on the shape alone.
#pragma once
#include "cuda/gemm_operand.cuh"

namespace gdext::cuda {

constexpr int kFew = 16;

struct SkinnyShape {
  int few;       // at most kFew
  int64_t many;  // lines
  int64_t K;
  bool few_is_b;
};

template <class A, class Epilogue>
__device__ void finish_skinny(const Epilogue& epilogue, const SkinnyShape& shape, int few_line,
                              int64_t many_line, A sum) {
  if (few_line >= shape.few || many_line >= shape.many) return;
  if (shape.few_is_b)
    epilogue(many_line, few_line, sum);
  else
    epilogue(few_line, many_line, sum);
}

// Of 32 numbers on each lane: lane i gets the sum over the lanes of the i-th.
template <class A>
__device__ A transpose_and_add(A (&value)[kWarp]) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int half = kWarp / 2; half > 0; half /= 2) {
    const bool upper = lane & half;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const A kept = upper ? value[i + half] : value[i], given = upper ? value[i] : value[i + half];
      value[i] = kept + __shfl_xor_sync(0xffffffffu, given, half);
    }
  }
  return value[0];
}

// The lines of `many` lie along k: a warp takes kLinesOfWarp of them, and its lanes share k.
constexpr int kSkinnyWarps = 4, kLinesOfWarp = kWarp / kFew;

template <class T, int kWidth>
__device__ void multiply_lines(const Operand& few, const Operand& many, const SkinnyShape& shape,
                               int64_t first_line, acc_t<T> (&sum)[kWarp]) {
  using A = acc_t<T>;
  const auto load = [](const Operand& operand, int64_t line, int64_t k) {
    const T* at = static_cast<const T*>(operand.data) + line * operand.line_stride;
    return *reinterpret_cast<const Pack<T, kWidth>*>(at + (kWidth == 1 ? k * operand.k_stride : k));
  };
#pragma unroll 1
  for (int64_t k = threadIdx.x % kWarp * kWidth; k < shape.K; k += kWarp * kWidth) {
    Pack<T, kWidth> of_many[kLinesOfWarp];
#pragma unroll
    for (int j = 0; j < kLinesOfWarp; ++j)
      // The last line once more where there is no other: its sum is not kept.
      of_many[j] = load(many, first_line + j < shape.many ? first_line + j : shape.many - 1, k);
#pragma unroll
    for (int f = 0; f < kFew; ++f) {
      if (f >= shape.few) break;
      const Pack<T, kWidth> of_few = load(few, f, k);
#pragma unroll
      for (int j = 0; j < kLinesOfWarp; ++j)
#pragma unroll
        for (int i = 0; i < kWidth; ++i)
          sum[j * kFew + f] +=
              static_cast<A>(of_few.value[i]) * static_cast<A>(of_many[j].value[i]);
    }
  }
}

template <class T, class Epilogue>
__global__ void __launch_bounds__(kSkinnyWarps* kWarp)
    skinny_lines_kernel(Operand few, Operand many, SkinnyShape shape, Epilogue epilogue) {
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * kSkinnyWarps + threadIdx.x / kWarp;
  const int64_t first_line = warp * kLinesOfWarp;
  if (first_line >= shape.many) return;
  constexpr int kWidth = kPiece / static_cast<int>(sizeof(T));
  acc_t<T> sum[kWarp] = {};
  if (few.in_pieces && many.in_pieces && shape.K % kWidth == 0)
    multiply_lines<T, kWidth>(few, many, shape, first_line, sum);
  else
    multiply_lines<T, 1>(few, many, shape, first_line, sum);
  const acc_t<T> total = transpose_and_add(sum);
  const int lane = threadIdx.x % kWarp;
  finish_skinny(epilogue, shape, lane % kFew, first_line + lane / kFew, total);
}

// The k-th elements of the lines of `many` lie side by side: a lane takes one line, a block kWarp
// of them, whose warps take the k in turn; then their sums are added, warp by warp. Where k is long
// and blocks are few, the kCluster blocks of a cluster share k likewise (sm_90).
template <class T, int kCluster, class Epilogue>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    skinny_columns_kernel(Operand few, Operand many, SkinnyShape shape, Epilogue epilogue) {
  using A = acc_t<T>;
  constexpr int kWarps = kThreads / kWarp;
  __shared__ A of_warp[kWarps][kFew][kWarp];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int rank = kCluster == 1 ? 0 : static_cast<int>(ptx::cluster_rank());
  const int64_t first_line = static_cast<int64_t>(blockIdx.x / kCluster) * kWarp;
  const int64_t line = first_line + lane < shape.many ? first_line + lane : shape.many - 1;
  const T* column = static_cast<const T*>(many.data) + line * many.line_stride;
  // A step takes kDepth values of k: each warp kAhead of them, all on their way before the first is
  // used; those of `few` by way of shared memory. What lies past the end is 0 in both.
  constexpr int kAhead = 4, kDepth = kAhead * kWarps;
  __shared__ __align__(16) A of_few[kDepth][kFew];
  A sum[kFew] = {};
#pragma unroll 1
  for (int64_t first = rank * kDepth; first < shape.K; first += kCluster * kDepth) {
    A value[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t k = first + i * kWarps + warp;
      value[i] = k < shape.K ? static_cast<A>(column[k * many.k_stride]) : A(0);
    }
    __syncthreads();  // all have done with the last step's
#pragma unroll
    for (int at = threadIdx.x; at < kFew * kDepth; at += kThreads) {
      const int f = at / kDepth;
      const int64_t k = first + at % kDepth;
      of_few[at % kDepth][f] = f < shape.few && k < shape.K
                                   ? static_cast<A>(static_cast<const T*>(
                                         few.data)[f * few.line_stride + k * few.k_stride])
                                   : A(0);
    }
    __syncthreads();
    constexpr int kTogether = kPiece / static_cast<int>(sizeof(A));
#pragma unroll
    for (int f = 0; f < kFew; f += kTogether) {
      if (f >= shape.few) break;
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const auto factors =
            *reinterpret_cast<const Pack<A, kTogether>*>(&of_few[i * kWarps + warp][f]);
#pragma unroll
        for (int j = 0; j < kTogether; ++j) sum[f + j] += value[i] * factors.value[j];
      }
    }
  }
#pragma unroll
  for (int f = 0; f < kFew; ++f) of_warp[warp][f][lane] = sum[f];
  __syncthreads();
#pragma unroll 1
  for (int f = warp; f < shape.few; f += kWarps) {
    A total = A(0);
    for (int w = 0; w < kWarps; ++w) total += of_warp[w][f][lane];
    of_warp[0][f][lane] = total;  // read by this lane alone until here
    if constexpr (kCluster == 1) finish_skinny(epilogue, shape, f, first_line + lane, total);
  }
  if constexpr (kCluster > 1) {
    ptx::cluster_sync();
#pragma unroll 1
    for (int f = rank + kCluster * warp; f < shape.few; f += kCluster * kWarps) {
      A total = A(0);
      for (int r = 0; r < kCluster; ++r) total += *ptx::map_shared_rank(&of_warp[0][f][lane], r);
      finish_skinny(epilogue, shape, f, first_line + lane, total);
    }
    ptx::cluster_sync();  // none leaves while others read its sums
  }
}

// Whether these kernels take a product: one operand of few lines, and the other's neighbours along
// k or across its lines.
inline bool is_skinny(Matrix a, Matrix b, int64_t M, int64_t N) {
  const Matrix& many = M <= kFew ? b : a;
  return (M <= kFew || N <= kFew) && (many.row_stride == 1 || many.col_stride == 1);
}

template <class T, class Epilogue>
void gemm_skinny(const char* name, Matrix a, Matrix b, int64_t M, int64_t N, int64_t K,
                 Epilogue epilogue, Context context) {
  const bool few_is_b = M > kFew;
  const SkinnyShape shape{static_cast<int>(few_is_b ? N : M), few_is_b ? M : N, K, few_is_b};
  const Operand of_a = operand<T>(a.data, a.row_stride, a.col_stride, Adjacent::along_k);
  const Operand of_b = operand<T>(b.data, b.col_stride, b.row_stride, Adjacent::along_k);
  const Operand &few = few_is_b ? of_b : of_a, &many = few_is_b ? of_a : of_b;
  if (shape.few == 0) return;
  if (many.k_stride == 1) {
    launch(name, skinny_lines_kernel<T, Epilogue>,
           ceil_div(shape.many, kSkinnyWarps * kLinesOfWarp), kSkinnyWarps * kWarp, context, few,
           many, shape, epilogue);
    return;
  }
  constexpr int kCluster = 8;
  constexpr int64_t kLongK = 512, kEnoughBlocks = 132;
  const int64_t blocks = ceil_div(shape.many, kWarp);
  if (K >= kLongK && blocks < kEnoughBlocks && code_capability() >= 90)
    launch(name, skinny_columns_kernel<T, kCluster, Epilogue>,
           {.blocks = blocks * kCluster, .threads = kThreads, .cluster = kCluster}, context, few,
           many, shape, epilogue);
  else
    launch(name, skinny_columns_kernel<T, 1, Epilogue>, blocks, kThreads, context, few, many, shape,
           epilogue);
}

}  // namespace gdext::cuda
