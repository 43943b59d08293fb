// gemm by tensor cores, a warp at a time (mma, sm_80).
//
// A block makes one tile of C, a warp a part of it. Tiles of A and B come to shared memory by
// asynchronous copies, kStages - 1 of them under way while one is multiplied; the finished sums go
// through shared memory once more, so that the epilogue runs over them in rows. The order in which
// the products of one element are added depends on the arithmetic alone, not on the tile.
#pragma once
#include "cuda/gemm_arithmetic.cuh"

namespace gdext::cuda {

template <int kRowsOfC, int kColsOfC, int kWarpsDown, int kWarpsAcross>
struct MmaTile {
  static constexpr int kRows = kRowsOfC, kCols = kColsOfC, kAcross = kWarpsAcross;
  static constexpr int kThreads = kWarpsDown * kWarpsAcross * kWarp;
  static constexpr int kStages = 4;
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

// Calls f(m, n, value) for the tile's elements that are in C, row by row. `result`: Tile::kRows
// rows in shared memory, kPitch apart.
template <class Tile, class A, class F>
__device__ void for_rows(const A* result, int64_t first_row, int64_t first_col, int64_t M,
                         int64_t N, const F& f) {
  static_assert(Tile::kThreads % Tile::kCols == 0);
  const int col = threadIdx.x % Tile::kCols;
  if (first_col + col >= N) return;
#pragma unroll 1
  for (int row = threadIdx.x / Tile::kCols; row < Tile::kRows && first_row + row < M;
       row += Tile::kThreads / Tile::kCols)
    f(first_row + row, first_col + col, result[row * Tile::template kPitch<A> + col]);
}

// Whether this architecture's code has the arithmetic.
template <class Arithmetic>
__device__ constexpr bool is_compiled() {
#if defined(__CUDA_ARCH__)
  return __CUDA_ARCH__ >= 800 && __CUDA_ARCH__ < Arithmetic::kArchBelow;
#else
  return true;
#endif
}

template <class Arithmetic, class Tile, Adjacent kA, Adjacent kB, class Epilogue>
__device__ void make_tile(const Operand& a, const Operand& b, int64_t M, int64_t N, int64_t K,
                          const Epilogue& epilogue) {
  using T = typename Arithmetic::Element;
  using A = acc_t<T>;
  using ATile = OperandTile<T, Tile::kRows, kA, Tile::kThreads>;
  using BTile = OperandTile<T, Tile::kCols, kB, Tile::kThreads>;
  unsigned char* shared = ptx::dynamic_shared();
  const int64_t tiles_across = ceil_div(N, Tile::kCols);
  const int64_t first_row = blockIdx.x / tiles_across * Tile::kRows;
  const int64_t first_col = blockIdx.x % tiles_across * Tile::kCols;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int warp_row = warp / Tile::kAcross * Tile::kWarpRows;
  const int warp_col = warp % Tile::kAcross * Tile::kWarpCols;
  const int a_lane = ATile::lane_offset(warp_row), b_lane = BTile::lane_offset(warp_col);

  const int64_t steps = ceil_div(K, ATile::kDepth);
  const auto fetch = [&](int64_t step) {
    if (step < steps) {
      unsigned char* stage = shared + step % Tile::kStages * Tile::kStageBytes;
      ATile::fetch(stage, a, first_row, step * ATile::kDepth, M, K);
      BTile::fetch(stage + ATile::kBytes, b, first_col, step * ATile::kDepth, N, K);
    }
    ptx::cp_async_commit();  // of nothing at the end: the waits count groups
  };
  BlockSum<A> sum[Tile::kDown][Tile::kRight] = {};
  for (int step = 0; step < Tile::kStages - 1; ++step) fetch(step);
#pragma unroll 1
  for (int64_t step = 0; step < steps; ++step) {
    ptx::cp_async_wait<Tile::kStages - 2>();
    // This step's tiles are there for all, and all have done with those of the last.
    __syncthreads();
    fetch(step + Tile::kStages - 1);
    const unsigned char* a_tile = shared + step % Tile::kStages * Tile::kStageBytes;
    const unsigned char* b_tile = a_tile + ATile::kBytes;
#pragma unroll
    for (int part = 0; part < kTileDepth / kFragmentDepth; ++part) {
      typename Arithmetic::Factor rows[Tile::kDown];
#pragma unroll
      for (int i = 0; i < Tile::kDown; ++i)
        rows[i] = Arithmetic::factor(ATile::fragment(a_tile, a_lane, i, part));
#pragma unroll
      for (int j = 0; j < Tile::kRight; ++j) {
        const auto cols = Arithmetic::factor(BTile::fragment(b_tile, b_lane, j, part));
#pragma unroll
        for (int i = 0; i < Tile::kDown; ++i) Arithmetic::multiply(sum[i][j], rows[i], cols);
      }
    }
  }

  ptx::cp_async_wait<0>();
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
  __syncthreads();
  for_rows<Tile>(result, first_row, first_col, M, N, [&](int64_t m, int64_t n, A value) {
    // What is rounded on the way may overflow, and what is split makes NaN of infinity: such an
    // element, and what has come near, is made anew.
    constexpr float kNearOverflow = 0x1p127f;
    if constexpr (Arithmetic::kRounds)
      if (!(std::abs(value) < kNearOverflow)) value = plain_element<T>(a, b, m, n, K);
    epilogue(m, n, value);
  });
}

template <class Arithmetic, class Tile, Adjacent kA, Adjacent kB, class Epilogue>
__global__ void __launch_bounds__(Tile::kThreads, Arithmetic::kBlocksAtOnce)
    gemm_mma_kernel(Operand a, Operand b, int64_t M, int64_t N, int64_t K, Epilogue epilogue) {
  if constexpr (is_compiled<Arithmetic>())
    make_tile<Arithmetic, Tile, kA, kB>(a, b, M, N, K, epilogue);
  else
    __trap();
}

template <class Arithmetic, class Tile, Adjacent kA, Adjacent kB, class Epilogue>
void gemm_mma(const char* name, Matrix a, Matrix b, int64_t M, int64_t N, int64_t K,
              Epilogue epilogue, Context context) {
  using T = typename Arithmetic::Element;
  launch(name, gemm_mma_kernel<Arithmetic, Tile, kA, kB, Epilogue>,
         {.blocks = ceil_div(M, Tile::kRows) * ceil_div(N, Tile::kCols),
          .threads = Tile::kThreads,
          .dynamic_shared = Tile::template kSharedBytes<acc_t<T>>},
         context, operand<T>(a.data, a.row_stride, a.col_stride, kA),
         operand<T>(b.data, b.col_stride, b.row_stride, kB), M, N, K, epilogue);
}

}  // namespace gdext::cuda
