// gemm by plain multiply-adds, for every type, device and stride.
//
// A block makes one tile of C. It walks along k in steps of kDepth: each thread fetches its share
// of the next A and B tiles into registers while the block multiplies the current ones out of
// shared memory (two buffers, so one barrier per step), and holds a patch of C in registers. The
// finished tile goes through shared memory once more, so that the epilogue runs over it in rows:
// coalesced stores, and one copy of the epilogue's code however large the patch.
//
// A patch is 4 x 4, as many products for each number read as shared memory can feed, or, in
// float64, as registers allow. A small tile has fewer patches than the block has threads: the block
// is cut into slices, which share its k as the blocks of a cluster do (gemm_cluster.cuh), each with
// tiles of its own.
//
// Sums have two levels or more: the kDepth products of each step first, then the steps, then the
// slices, then the blocks. That keeps float32's rounding errors near those of a sum of length
// kDepth + K / kDepth, or below.
#pragma once
#include "cuda/gemm_cluster.cuh"

namespace gdext::cuda {

// With fewer tiles than this most of a large GPU (132 multiprocessors on an H100) is idle.
constexpr int64_t kFewTiles = 128;

template <int kRowsOfC, int kColsOfC, int kRowsOfPatch = 4>
struct Tile {
  static constexpr int kRows = kRowsOfC, kCols = kColsOfC, kDepth = 16;
  static constexpr int kPatchRows = kRowsOfPatch, kPatchCols = 4;
  static constexpr int kAcross = kCols / kPatchCols;  // the threads of a slice, over the tile
  static constexpr int kOfSlice = kAcross * kRows / kPatchRows, kSlices = kThreads / kOfSlice;
  static constexpr int kStep = kSlices * kDepth;  // of the block, along k
  static_assert(kSlices * kOfSlice == kThreads && kOfSlice % kWarp == 0);
  static_assert(kPatchRows <= 4);  // GemmShared's alignment
};

// A shared tile is [kDepth][kLines + kPad], a line being a row of A or a column of B. The padding
// spreads the stores along k over the banks and keeps patches aligned to their size.
constexpr int kPad = 4;

// Moves one operand's tiles of a slice from global to shared memory. Consecutive threads read along
// the lines where these are adjacent in memory, else along k. What lies outside the matrix reads
// as 0.
template <class T, int kLines, int kDepth, int kOfSlice>
class TileLoader {
 public:
  // Element (line, k) of the operand is at data[line * line_stride + k * k_stride]. The first tile
  // begins at (first_line, first_k), the next ones k_step further along k each.
  __device__ TileLoader(const void* data, int64_t line_stride, int64_t k_stride, int64_t first_line,
                        int64_t first_k, int k_step, int64_t lines, int64_t depth)
      : lines_(lines - first_line), depth_(depth - first_k), k_step_(k_step) {
    const bool along_lines = line_stride == 1;
    const int thread = threadIdx.x % kOfSlice;
    line_ = along_lines ? thread % kLines : thread / kDepth;
    k_ = along_lines ? thread / kLines : thread % kDepth;
    next_line_ = along_lines ? 0 : kOfSlice / kDepth;
    next_k_ = along_lines ? kOfSlice / kLines : 0;
    source_ = static_cast<const T*>(data) + (first_line + line_) * line_stride +
              (first_k + k_) * k_stride;
    next_ = next_line_ * line_stride + next_k_ * k_stride;
    advance_ = k_step * k_stride;
  }

  // Reads this thread's elements of the next tile into registers.
  __device__ void fetch() {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const bool inside = line_ + i * next_line_ < lines_ && k_ + i * next_k_ < depth_;
      held_[i] = inside ? source_[i * next_] : T{};
    }
    source_ += advance_;
    depth_ -= k_step_;
  }

  // Writes them to shared memory, in the type of the accumulation.
  __device__ void store(acc_t<T> (*tile)[kLines + kPad]) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      tile[k_ + i * next_k_][line_ + i * next_line_] = static_cast<acc_t<T>>(held_[i]);
  }

 private:
  static constexpr int kCount = kLines * kDepth / kOfSlice;
  static_assert(kCount * kOfSlice == kLines * kDepth && kOfSlice % kLines == 0 &&
                kOfSlice % kDepth == 0);
  const T* source_;         // this thread's first element of the next tile
  int64_t next_, advance_;  // from an element to this thread's next one; to the next tile
  int64_t lines_, depth_;   // what is left of the matrix from the tile's corner on
  int k_step_;
  int line_, k_;  // the first element's place in the tile
  int next_line_, next_k_;
  T held_[kCount];
};

// Of 48 KB at most, which every kernel has.
template <class A, class TileShape>
union alignas(4 * sizeof(A)) GemmShared {
  struct Operands {
    A a[2][TileShape::kDepth][TileShape::kRows + kPad];
    A b[2][TileShape::kDepth][TileShape::kCols + kPad];
  } slice[TileShape::kSlices];
  A result[TileShape::kSlices][TileShape::kRows * TileShape::kCols];
};

// sum += a b over one step's tiles, for this thread's patch.
template <class TileShape, class A>
__device__ void multiply_tiles(const A (*a)[TileShape::kRows + kPad],
                               const A (*b)[TileShape::kCols + kPad], int row, int col,
                               A (&sum)[TileShape::kPatchRows][TileShape::kPatchCols]) {
  constexpr int kPatchRows = TileShape::kPatchRows, kPatchCols = TileShape::kPatchCols;
  using RowPack = Pack<A, kPatchRows>;
  using ColPack = Pack<A, kPatchCols>;
  A step[kPatchRows][kPatchCols] = {};
#pragma unroll
  for (int k = 0; k < TileShape::kDepth; ++k) {
    const RowPack a_patch = *reinterpret_cast<const RowPack*>(&a[k][row]);
    const ColPack b_patch = *reinterpret_cast<const ColPack*>(&b[k][col]);
#pragma unroll
    for (int i = 0; i < kPatchRows; ++i)
#pragma unroll
      for (int j = 0; j < kPatchCols; ++j) step[i][j] += a_patch.value[i] * b_patch.value[j];
  }
#pragma unroll
  for (int i = 0; i < kPatchRows; ++i)
#pragma unroll
    for (int j = 0; j < kPatchCols; ++j) sum[i][j] += step[i][j];
}

// In float64 a patch and its parts of A and B take more registers than two blocks leave.
template <class A>
constexpr int kPlainBlocksAtOnce = sizeof(A) == 8 ? 1 : kBlocksAtOnce;

// `parts`: blocks of a cluster, which share each tile.
template <class TA, class TB, class TileShape, class Epilogue>
__global__ void __launch_bounds__(kThreads, kPlainBlocksAtOnce<acc_t<TA>>)
    gemm_kernel(Matrix a, Matrix b, int64_t M, int64_t N, int64_t K, int parts, Epilogue epilogue) {
  using A = acc_t<TA>;
  static_assert(std::is_same_v<A, acc_t<TB>>);
  constexpr int kRows = TileShape::kRows, kCols = TileShape::kCols, kDepth = TileShape::kDepth;
  constexpr int kPatchRows = TileShape::kPatchRows, kPatchCols = TileShape::kPatchCols;
  constexpr int kOfSlice = TileShape::kOfSlice, kSlices = TileShape::kSlices;
  auto& shared = *reinterpret_cast<GemmShared<A, TileShape>*>(ptx::dynamic_shared());
  const TilePart part(parts);
  const int64_t tiles_across = ceil_div(N, kCols);
  const int64_t first_row = part.tile / tiles_across * kRows;
  const int64_t first_col = part.tile % tiles_across * kCols;
  const int slice = threadIdx.x / kOfSlice, thread = threadIdx.x % kOfSlice;
  const int row = thread / TileShape::kAcross * kPatchRows;
  const int col = thread % TileShape::kAcross * kPatchCols;

  const int64_t first_k = (part.rank * kSlices + slice) * kDepth;
  const int k_step = parts * TileShape::kStep;
  TileLoader<TA, kRows, kDepth, kOfSlice> a_loader(a.data, a.row_stride, a.col_stride, first_row,
                                                   first_k, k_step, M, K);
  TileLoader<TB, kCols, kDepth, kOfSlice> b_loader(b.data, b.col_stride, b.row_stride, first_col,
                                                   first_k, k_step, N, K);
  a_loader.fetch();
  b_loader.fetch();
  A sum[kPatchRows][kPatchCols] = {};
  auto& operands = shared.slice[slice];
  const int64_t steps = part.steps(ceil_div(K, TileShape::kStep));
  for (int64_t step = 0; step < steps; ++step) {
    // Only threads that have finished step - 1 pass its barrier, so none still reads this buffer.
    auto& a_tile = operands.a[step % 2];
    auto& b_tile = operands.b[step % 2];
    a_loader.store(a_tile);
    b_loader.store(b_tile);
    __syncthreads();
    a_loader.fetch();
    b_loader.fetch();
    multiply_tiles<TileShape>(a_tile, b_tile, row, col, sum);
  }

  __syncthreads();
#pragma unroll
  for (int i = 0; i < kPatchRows; ++i)
#pragma unroll
    for (int j = 0; j < kPatchCols; ++j)
      shared.result[slice][(row + i) * kCols + col + j] = sum[i][j];
  __syncthreads();
  const auto sum_of_slices = [&](int e) {
    A total = shared.result[0][e];
#pragma unroll
    for (int s = 1; s < kSlices; ++s) total += shared.result[s][e];
    return total;
  };
  if (parts > 1) {
    if constexpr (kSlices > 1)
      for (int e = threadIdx.x; e < kRows * kCols; e += kThreads)
        shared.result[0][e] = sum_of_slices(e);  // read by this thread alone until here
    ptx::cluster_sync();
  }
#pragma unroll 1
  for (int e = part.rank * kThreads + threadIdx.x; e < kRows * kCols; e += parts * kThreads) {
    const int64_t m = first_row + e / kCols, n = first_col + e % kCols;
    if (m < M && n < N)
      epilogue(m, n, parts == 1 ? sum_of_slices(e) : sum_of_parts(&shared.result[0][e], parts));
  }
  if (parts > 1) ptx::cluster_sync();  // none leaves while others read its sums
}

template <class TileShape>
int64_t plain_tiles(int64_t M, int64_t N) {
  return ceil_div(M, TileShape::kRows) * ceil_div(N, TileShape::kCols);
}

// By tiles of this shape, each of them shared by `parts` blocks.
template <class TileShape, class TA, class TB, class Epilogue>
void gemm_plain_by(const char* name, Matrix a, Matrix b, int64_t M, int64_t N, int64_t K, int parts,
                   Epilogue epilogue, Context context) {
  launch(name, gemm_kernel<TA, TB, TileShape, Epilogue>,
         {.blocks = plain_tiles<TileShape>(M, N) * parts,
          .threads = kThreads,
          .dynamic_shared = sizeof(GemmShared<acc_t<TA>, TileShape>),
          .cluster = parts},
         context, a, b, M, N, K, parts, epilogue);
}

// As gemm (gemm.cuh).
template <class TA, class TB, class Epilogue>
void gemm_plain(const char* name, Matrix a, Matrix b, int64_t M, int64_t N, int64_t K,
                Epilogue epilogue, Context context) {
  using Large = Tile<64, 64>;
  using Small = Tile<32, 32, sizeof(acc_t<TA>) == 8 ? 2 : 4>;
  const int multiprocessors = multiprocessors_for_clusters();
  constexpr int64_t kLeastOfPart = 128;  // of k
  const auto parts_of = [&](int64_t tiles) {
    return parts_of_k(tiles, K, kLeastOfPart, multiprocessors);
  };
  const int64_t large = plain_tiles<Large>(M, N);
  const int parts = parts_of(large);
  if (large * parts >= kFewTiles)
    gemm_plain_by<Large, TA, TB>(name, a, b, M, N, K, parts, epilogue, context);
  else
    gemm_plain_by<Small, TA, TB>(name, a, b, M, N, K, parts_of(plain_tiles<Small>(M, N)), epilogue,
                                 context);
}

}  // namespace gdext::cuda
