// gemm by tensor cores, a warp at a time (mma, sm_80; of float16 sm_75).
//
// A block makes one tile of C, a warp a part of it; the blocks of a cluster may share a small one
// (gemm_cluster.cuh). Tiles of A and B come to shared memory by asynchronous copies, kStages - 1 of
// them under way while one is multiplied; or, where there are none, by way of registers, one ahead.
// The finished sums go through shared memory once more, so that the epilogue runs over them in
// rows. The order in which the products of one element are added depends on the arithmetic and the
// number of blocks that share them, not on the tile.
#pragma once
#include "cuda/gemm_arithmetic.cuh"
#include "cuda/gemm_cluster.cuh"

namespace gdext::cuda {

template <int kRowsOfC, int kColsOfC, int kWarpsDown, int kWarpsAcross, int kStagesOfTile = 4>
struct MmaTile {
  static constexpr int kRows = kRowsOfC, kCols = kColsOfC, kAcross = kWarpsAcross;
  static constexpr int kThreads = kWarpsDown * kWarpsAcross * kWarp;
  static constexpr int kStages = kStagesOfTile;
  // The large one has no registers for it, nor the need: there are many of them where it is chosen.
  static constexpr bool kMayShare = kRows == 64 && kStages == 4;
  static constexpr int kBlock = 16;  // of the sums, in rows and columns
  static constexpr int kWarpRows = kRows / kWarpsDown, kWarpCols = kCols / kWarpsAcross;
  static constexpr int kDown = kWarpRows / kBlock, kRight = kWarpCols / kBlock;
  static constexpr int kStageBytes = (kRows + kCols) * kTileDepth;

  // Sums in rows of 32 bytes more, which spreads a block's over the banks.
  template <class A>
  static constexpr int kPitch = kCols + 32 / static_cast<int>(sizeof(A));
  template <class A>
  static constexpr int kSharedBytes = kStages * kStageBytes >
                                              kRows* kPitch<A>* static_cast<int>(sizeof(A))
                                          ? kStages * kStageBytes
                                          : kRows * kPitch<A> * static_cast<int>(sizeof(A));
};
using LargeMmaTile = MmaTile<128, 128, 2, 4>;
using SmallMmaTile = MmaTile<64, 64, 2, 2>;
using Sm75MmaTile = MmaTile<64, 64, 2, 2, 2>;  // three blocks in the 64 KB of a multiprocessor

// One element of C by plain arithmetic, in the plain kernel's order of two levels.
template <class T>
__device__ acc_t<T> plain_element(const Operand& a, const Operand& b, int64_t m, int64_t n,
                                  int64_t K) {
  using A = acc_t<T>;
  constexpr int kDepth = 16;
  const T* row = static_cast<const T*>(a.data) + m * a.line_stride;
  const T* col = static_cast<const T*>(b.data) + n * b.line_stride;
  A sum = A(0);
#pragma unroll 1
  for (int64_t first = 0; first < K; first += kDepth) {
    A part = A(0);
#pragma unroll 1
    for (int64_t k = first; k < K && k < first + kDepth; ++k)
      part += static_cast<A>(row[k * a.k_stride]) * static_cast<A>(col[k * b.k_stride]);
    sum += part;
  }
  return sum;
}

// Calls f(m, n, value) for the tile's elements that are in C, row by row; where `parts` blocks
// share it, for this one's rows. `result`: Tile::kRows rows in shared memory, kPitch apart.
template <class Tile, class A, class F>
__device__ void for_rows(A* result, int64_t first_row, int64_t first_col, int64_t M, int64_t N,
                         const F& f, int parts = 1, int rank = 0) {
  static_assert(Tile::kThreads % Tile::kCols == 0);
  constexpr int kRowsAtOnce = Tile::kThreads / Tile::kCols;
  const int col = threadIdx.x % Tile::kCols;
  if (first_col + col >= N) return;
#pragma unroll 1
  for (int row = rank * kRowsAtOnce + threadIdx.x / Tile::kCols;
       row < Tile::kRows && first_row + row < M; row += parts * kRowsAtOnce) {
    A* at = result + row * Tile::template kPitch<A> + col;
    f(first_row + row, first_col + col, parts == 1 ? *at : sum_of_parts(at, parts));
  }
}

// Whether this architecture's code has the arithmetic.
template <class Arithmetic>
__device__ constexpr bool is_compiled() {
#if defined(__CUDA_ARCH__)
  return __CUDA_ARCH__ >= Arithmetic::kArchFrom && __CUDA_ARCH__ < Arithmetic::kArchBelow;
#else
  return true;
#endif
}

template <class Arithmetic, class Tile, Adjacent kA, Adjacent kB, class Epilogue>
__device__ void make_tile(const Operand& a, const Operand& b, int64_t M, int64_t N, int64_t K,
                          const TilePart& part, const Epilogue& epilogue) {
  using T = typename Arithmetic::Element;
  using A = acc_t<T>;
  using ATile = OperandTile<T, Tile::kRows, kA, Tile::kThreads>;
  using BTile = OperandTile<T, Tile::kCols, kB, Tile::kThreads>;
  unsigned char* shared = ptx::dynamic_shared();
  const int64_t tiles_across = ceil_div(N, Tile::kCols);
  const int64_t first_row = part.tile / tiles_across * Tile::kRows;
  const int64_t first_col = part.tile % tiles_across * Tile::kCols;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int warp_row = warp / Tile::kAcross * Tile::kWarpRows;
  const int warp_col = warp % Tile::kAcross * Tile::kWarpCols;
  const int a_lane = ATile::lane_offset(warp_row), b_lane = BTile::lane_offset(warp_col);

  const int64_t steps = part.steps(ceil_div(K, ATile::kDepth));
  const auto first_k = [&](int64_t step) {
    return (part.rank + step * part.parts) * ATile::kDepth;
  };
  const auto stage_of = [&](int64_t step) {
    return shared + step % Tile::kStages * Tile::kStageBytes;
  };
  BlockSum<A> sum[Tile::kDown][Tile::kRight] = {};
  const auto multiply = [&](int64_t step) {
    const unsigned char* a_tile = stage_of(step);
    const unsigned char* b_tile = a_tile + ATile::kBytes;
#pragma unroll
    for (int at = 0; at < kTileDepth / kFragmentDepth; ++at) {
      typename Arithmetic::Factor rows[Tile::kDown];
#pragma unroll
      for (int i = 0; i < Tile::kDown; ++i)
        rows[i] = Arithmetic::factor(ATile::fragment(a_tile, a_lane, i, at));
#pragma unroll
      for (int j = 0; j < Tile::kRight; ++j) {
        const auto cols = Arithmetic::factor(BTile::fragment(b_tile, b_lane, j, at));
#pragma unroll
        for (int i = 0; i < Tile::kDown; ++i) Arithmetic::multiply(sum[i][j], rows[i], cols);
      }
    }
  };

  if constexpr (Arithmetic::kAsync) {
    const auto fetch = [&](int64_t step) {
      if (step < steps) {
        ATile::fetch(stage_of(step), a, first_row, first_k(step), M, K);
        BTile::fetch(stage_of(step) + ATile::kBytes, b, first_col, first_k(step), N, K);
      }
      ptx::cp_async_commit();  // of nothing at the end: the waits count groups
    };
    for (int step = 0; step < Tile::kStages - 1; ++step) fetch(step);
#pragma unroll 1
    for (int64_t step = 0; step < steps; ++step) {
      ptx::cp_async_wait<Tile::kStages - 2>();
      // This step's tiles are there for all, and all have done with those of the last.
      __syncthreads();
      fetch(step + Tile::kStages - 1);
      multiply(step);
    }
    ptx::cp_async_wait<0>();
  } else {
    static_assert(Tile::kStages == 2);
    typename ATile::Held a_held;
    typename BTile::Held b_held;
    const auto load = [&](int64_t step) {
      ATile::load(a_held, a, first_row, first_k(step), M, K);
      BTile::load(b_held, b, first_col, first_k(step), N, K);
    };
    load(0);
#pragma unroll 1
    for (int64_t step = 0; step < steps; ++step) {
      ATile::store(stage_of(step), a_held);
      BTile::store(stage_of(step) + ATile::kBytes, b_held);
      // Only threads that have finished step - 1 pass, so none still reads what step + 1 stores to.
      __syncthreads();
      load(step + 1);
      multiply(step);
    }
  }

  __syncthreads();
  constexpr int kPitch = Tile::template kPitch<A>;
  A* result = reinterpret_cast<A*>(shared);
#pragma unroll
  for (int i = 0; i < Tile::kDown; ++i)
#pragma unroll
    for (int j = 0; j < Tile::kRight; ++j)
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {  // neighbours along the row
        const int row = warp_row + i * Tile::kBlock + lane / 4 + pair % 2 * 8;
        const int col = warp_col + j * Tile::kBlock + pair / 2 * 8 + lane % 4 * 2;
        const A* from = sum[i][j][pair / 2] + pair % 2 * 2;
        *reinterpret_cast<Pack<A, 2>*>(result + row * kPitch + col) = {{from[0], from[1]}};
      }
  if (part.parts == 1)
    __syncthreads();
  else
    ptx::cluster_sync();
  const auto finish = [&](int64_t m, int64_t n, A value) {
    // What is rounded on the way may overflow, and what is split makes NaN of infinity: such an
    // element, and what has come near, is made anew.
    constexpr float kNearOverflow = 0x1p127f;
    if constexpr (Arithmetic::kRounds)
      if (!(std::abs(value) < kNearOverflow)) value = plain_element<T>(a, b, m, n, K);
    epilogue(m, n, value);
  };
  for_rows<Tile>(result, first_row, first_col, M, N, finish, part.parts, part.rank);
  if (part.parts > 1) ptx::cluster_sync();  // none leaves while others read its sums
}

// `parts`: blocks of a cluster, which share each tile, where the tile may be shared.
template <class Arithmetic, class Tile, Adjacent kA, Adjacent kB, class Epilogue>
__global__ void __launch_bounds__(Tile::kThreads, Arithmetic::kBlocksAtOnce)
    gemm_mma_kernel(Operand a, Operand b, int64_t M, int64_t N, int64_t K, int parts,
                    Epilogue epilogue) {
  if constexpr (is_compiled<Arithmetic>())
    make_tile<Arithmetic, Tile, kA, kB>(a, b, M, N, K, TilePart(Tile::kMayShare ? parts : 1),
                                        epilogue);
  else
    __trap();
}

// `parts`: 0 for as many as parts_of_k says.
template <class Arithmetic, class Tile, Adjacent kA, Adjacent kB, class Epilogue>
void gemm_mma(const char* name, Matrix a, Matrix b, int64_t M, int64_t N, int64_t K,
              Epilogue epilogue, Context context, int parts = 0) {
  using T = typename Arithmetic::Element;
  const int64_t tiles = ceil_div(M, Tile::kRows) * ceil_div(N, Tile::kCols);
  constexpr int64_t kLeastOfPart = 8 * kTileDepth / sizeof(T);  // twice the stages
  if (!Tile::kMayShare)
    parts = 1;
  else if (parts == 0)
    parts = parts_of_k(tiles, K, kLeastOfPart, multiprocessors_for_clusters());
  launch(name, gemm_mma_kernel<Arithmetic, Tile, kA, kB, Epilogue>,
         {.blocks = tiles * parts,
          .threads = Tile::kThreads,
          .dynamic_shared = Tile::template kSharedBytes<acc_t<T>>,
          .cluster = parts},
         context, operand<T>(a.data, a.row_stride, a.col_stride, kA),
         operand<T>(b.data, b.col_stride, b.row_stride, kB), M, N, K, parts, epilogue);
}

}  // namespace gdext::cuda
