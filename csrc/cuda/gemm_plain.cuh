// gemm by plain multiply-adds, for every type, device and stride.
//
// A block makes one tile of C. It walks along k in steps of kDepth: each thread fetches its share
// of the next A and B tiles into registers while the block multiplies the current ones out of
// shared memory (two buffers, so one barrier per step), and holds a patch of C in registers. The
// finished tile goes through shared memory once more, so that the epilogue runs over it in rows:
// coalesced stores, and one copy of the epilogue's code however large the patch.
//
// The order in which the products of one element are added does not depend on the tile: the kDepth
// products of each step first, then the steps. Two levels keep float32's rounding errors near
// those of a sum of length kDepth + K / kDepth.
#pragma once
#include "cuda/common.cuh"

namespace gdext::cuda {

// With fewer tiles than this most of a large GPU (132 multiprocessors on an H100) is idle.
constexpr int64_t kFewTiles = 128;

template <int kRowsOfC, int kColsOfC>
struct Tile {
  static constexpr int kRows = kRowsOfC, kCols = kColsOfC, kDepth = 16;
  static constexpr int kAcross = 16, kDown = kThreads / kAcross;  // the threads, over the tile
  static constexpr int kPatchRows = kRows / kDown, kPatchCols = kCols / kAcross;
  static_assert(kPatchRows * kDown == kRows && kPatchCols * kAcross == kCols);
  static_assert(kPatchRows <= 4 && kPatchCols <= 4);  // GemmShared's alignment
};

// A shared tile is [kDepth][kLines + kPad], a line being a row of A or a column of B. The padding
// spreads the stores along k over the banks and keeps patches aligned to their size.
constexpr int kPad = 4;

// Moves one operand's tiles from global to shared memory. Consecutive threads read along the lines
// where these are adjacent in memory, else along k. What lies outside the matrix reads as 0.
template <class T, int kLines, int kDepth>
class TileLoader {
 public:
  // Element (line, k) of the operand is at data[line * line_stride + k * k_stride].
  __device__ TileLoader(const void* data, int64_t line_stride, int64_t k_stride, int64_t first_line,
                        int64_t lines, int64_t depth)
      : lines_(lines - first_line), depth_(depth) {
    const bool along_lines = line_stride == 1;
    const int thread = threadIdx.x;
    line_ = along_lines ? thread % kLines : thread / kDepth;
    k_ = along_lines ? thread / kLines : thread % kDepth;
    next_line_ = along_lines ? 0 : kThreads / kDepth;
    next_k_ = along_lines ? kThreads / kLines : 0;
    source_ = static_cast<const T*>(data) + (first_line + line_) * line_stride + k_ * k_stride;
    next_ = next_line_ * line_stride + next_k_ * k_stride;
    advance_ = kDepth * k_stride;
  }

  // Reads this thread's elements of the next tile into registers.
  __device__ void fetch() {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const bool inside = line_ + i * next_line_ < lines_ && k_ + i * next_k_ < depth_;
      held_[i] = inside ? source_[i * next_] : T{};
    }
    source_ += advance_;
    depth_ -= kDepth;
  }

  // Writes them to shared memory, in the type of the accumulation.
  __device__ void store(acc_t<T> (*tile)[kLines + kPad]) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      tile[k_ + i * next_k_][line_ + i * next_line_] = static_cast<acc_t<T>>(held_[i]);
  }

 private:
  static constexpr int kCount = kLines * kDepth / kThreads;
  static_assert(kCount * kThreads == kLines * kDepth && kThreads % kLines == 0 &&
                kThreads % kDepth == 0);
  const T* source_;         // this thread's first element of the next tile
  int64_t next_, advance_;  // from an element to this thread's next one; to the next tile
  int64_t lines_, depth_;   // what is left of the matrix from the tile's corner on
  int line_, k_;            // the first element's place in the tile
  int next_line_, next_k_;
  T held_[kCount];
};

template <class A, class TileShape>
union alignas(4 * sizeof(A)) GemmShared {
  struct {
    A a[2][TileShape::kDepth][TileShape::kRows + kPad];
    A b[2][TileShape::kDepth][TileShape::kCols + kPad];
  } operands;
  A result[TileShape::kRows][TileShape::kCols];
};

// sum += a b over one step's tiles, for this thread's patch.
template <class TileShape, class A>
__device__ void multiply_tiles(const A (*a)[TileShape::kRows + kPad],
                               const A (*b)[TileShape::kCols + kPad], int row, int col,
                               A (&sum)[TileShape::kPatchRows][TileShape::kPatchCols]) {
  using RowPack = Pack<A, TileShape::kPatchRows>;
  using ColPack = Pack<A, TileShape::kPatchCols>;
  A step[TileShape::kPatchRows][TileShape::kPatchCols] = {};
#pragma unroll
  for (int k = 0; k < TileShape::kDepth; ++k) {
    const RowPack a_patch = *reinterpret_cast<const RowPack*>(&a[k][row]);
    const ColPack b_patch = *reinterpret_cast<const ColPack*>(&b[k][col]);
#pragma unroll
    for (int i = 0; i < TileShape::kPatchRows; ++i)
#pragma unroll
      for (int j = 0; j < TileShape::kPatchCols; ++j)
        step[i][j] += a_patch.value[i] * b_patch.value[j];
  }
#pragma unroll
  for (int i = 0; i < TileShape::kPatchRows; ++i)
#pragma unroll
    for (int j = 0; j < TileShape::kPatchCols; ++j) sum[i][j] += step[i][j];
}

template <class TA, class TB, class TileShape, class Epilogue>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    gemm_kernel(Matrix a, Matrix b, int64_t M, int64_t N, int64_t K, Epilogue epilogue) {
  using A = acc_t<TA>;
  static_assert(std::is_same_v<A, acc_t<TB>>);
  __shared__ GemmShared<A, TileShape> shared;
  const int64_t tiles_across = ceil_div(N, TileShape::kCols);
  const int64_t first_row = blockIdx.x / tiles_across * TileShape::kRows;
  const int64_t first_col = blockIdx.x % tiles_across * TileShape::kCols;
  const int row = threadIdx.x / TileShape::kAcross * TileShape::kPatchRows;
  const int col = threadIdx.x % TileShape::kAcross * TileShape::kPatchCols;

  TileLoader<TA, TileShape::kRows, TileShape::kDepth> a_loader(a.data, a.row_stride, a.col_stride,
                                                               first_row, M, K);
  TileLoader<TB, TileShape::kCols, TileShape::kDepth> b_loader(b.data, b.col_stride, b.row_stride,
                                                               first_col, N, K);
  a_loader.fetch();
  b_loader.fetch();
  A sum[TileShape::kPatchRows][TileShape::kPatchCols] = {};
  const int64_t steps = ceil_div(K, TileShape::kDepth);
  for (int64_t step = 0; step < steps; ++step) {
    // Only threads that have finished step - 1 pass its barrier, so none still reads this buffer.
    auto& a_tile = shared.operands.a[step % 2];
    auto& b_tile = shared.operands.b[step % 2];
    a_loader.store(a_tile);
    b_loader.store(b_tile);
    __syncthreads();
    a_loader.fetch();
    b_loader.fetch();
    multiply_tiles<TileShape>(a_tile, b_tile, row, col, sum);
  }

  __syncthreads();
#pragma unroll
  for (int i = 0; i < TileShape::kPatchRows; ++i)
#pragma unroll
    for (int j = 0; j < TileShape::kPatchCols; ++j) shared.result[row + i][col + j] = sum[i][j];
  __syncthreads();
#pragma unroll 1
  for (int e = threadIdx.x; e < TileShape::kRows * TileShape::kCols; e += kThreads) {
    const int64_t m = first_row + e / TileShape::kCols, n = first_col + e % TileShape::kCols;
    if (m < M && n < N) epilogue(m, n, shared.result[e / TileShape::kCols][e % TileShape::kCols]);
  }
}

// As gemm (gemm.cuh).
template <class TA, class TB, class Epilogue>
void gemm_plain(const char* name, Matrix a, Matrix b, int64_t M, int64_t N, int64_t K,
                Epilogue epilogue, Context context) {
  using Large = Tile<64, 64>;
  using Small = Tile<32, 32>;
  const auto tiles = [&](auto tile) {
    return ceil_div(M, decltype(tile)::kRows) * ceil_div(N, decltype(tile)::kCols);
  };
  if (tiles(Large{}) < kFewTiles)
    launch(name, gemm_kernel<TA, TB, Small, Epilogue>, tiles(Small{}), kThreads, context, a, b, M,
           N, K, epilogue);
  else
    launch(name, gemm_kernel<TA, TB, Large, Epilogue>, tiles(Large{}), kThreads, context, a, b, M,
           N, K, epilogue);
}

}  // namespace gdext::cuda
