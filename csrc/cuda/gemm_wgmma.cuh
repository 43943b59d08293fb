// gemm by tensor cores, a warpgroup at a time and straight out of shared memory (wgmma, sm_90a),
// for 16-bit types whose rows or columns are aligned to 16 bytes.
//
// A block of two warpgroups makes a tile of C, each 64 rows of it. All threads copy, kStages - 1
// tiles ahead, and the products of one step run beside the copies of a later one; two blocks on a
// multiprocessor fill each other's waits.
#pragma once
#include <string_view>

#include "cuda/gemm_mma.cuh"

namespace gdext::cuda {

struct WgmmaTile {
  static constexpr int kRows = 128, kCols = 128, kStages = 3, kThreads = 256;
  static constexpr int kGroup = 128, kRowsOfGroup = 64;  // threads of a warpgroup, its rows
  static constexpr int kLineBytes = 128;                 // all of the swizzle's
  static constexpr int kDepth = kLineBytes / 2;          // of 16-bit elements
  static constexpr int kOperandBytes = kRows * kLineBytes;
  static constexpr int kStageBytes = 2 * kOperandBytes;
  template <class A>
  static constexpr int kPitch = kCols + 8;  // as MmaTile's
  static constexpr int kSharedBytes = kStages * kStageBytes;
  static_assert(kSharedBytes >= kRows * kPitch<float> * 4 && kRows == kCols);
};

// An operand's tile as wgmma reads it (ptx/descriptor.cuh): lines of 128 bytes along k, one for
// each row (or column); or of 64 rows (or columns), kDepth of them for each 64.
template <class T, Adjacent kAdjacent>
struct WgmmaOperandTile {
  static constexpr bool kAlongK = kAdjacent == Adjacent::along_k;
  static constexpr int kPerPiece = kPiece / 2, kPerLine = WgmmaTile::kLineBytes / 2;
  static constexpr int kPiecesOfLine = WgmmaTile::kLineBytes / kPiece;
  static constexpr int kBlockBytes = WgmmaTile::kDepth * WgmmaTile::kLineBytes;  // of 64 rows
  static constexpr int kGroupBytes = 8 * WgmmaTile::kLineBytes;                  // of 8 lines

  // As OperandTile's, for operands in pieces alone.
  __device__ static void fetch(unsigned char* tile, const Operand& operand, int64_t first_line,
                               int64_t first_k, int64_t lines, int64_t depth) {
    constexpr int kLinesAtOnce = WgmmaTile::kThreads / kPiecesOfLine;
    static_assert(kLinesAtOnce % 8 == 0 && WgmmaTile::kDepth % kLinesAtOnce == 0);
    const int in_block = threadIdx.x / kPiecesOfLine, piece = threadIdx.x % kPiecesOfLine;
    unsigned char* to = tile + ptx::swizzled(in_block * WgmmaTile::kLineBytes + piece * kPiece,
                                             ptx::Swizzle::bytes128);
#pragma unroll
    for (int i = 0; i < WgmmaTile::kRows / kLinesAtOnce; ++i) {
      const int at = i * kLinesAtOnce;
      const int64_t line =
          first_line +
          (kAlongK ? at + in_block : at / WgmmaTile::kDepth * kPerLine + piece * kPerPiece);
      const int64_t k = first_k + (kAlongK ? piece * kPerPiece : at % WgmmaTile::kDepth + in_block);
      const int64_t left = line < lines && k < depth ? (kAlongK ? depth - k : lines - line) : 0;
      const T* data = static_cast<const T*>(operand.data);
      ptx::cp_async<kPiece>(to + at * WgmmaTile::kLineBytes,
                            left ? data + line * operand.line_stride + k * operand.k_stride : data,
                            static_cast<int>(left < kPerPiece ? left : kPerPiece) * 2);
    }
  }

  // From row (or column) `first`, a multiple of 64, and the `step`-th 16 of k on.
  __device__ static uint64_t descriptor(const unsigned char* tile, int first, int step) {
    const unsigned char* start =
        kAlongK ? tile + first * WgmmaTile::kLineBytes + step * 32
                : tile + first / kPerLine * kBlockBytes + step * 2 * kGroupBytes;
    return ptx::matrix_descriptor(start, ptx::Swizzle::bytes128, kBlockBytes, kGroupBytes);
  }
};

template <class T, Adjacent kA, Adjacent kB, class Epilogue>
__global__ void __launch_bounds__(WgmmaTile::kThreads, kBlocksAtOnce)
    gemm_wgmma_kernel(Operand a, Operand b, int64_t M, int64_t N, int64_t K, Epilogue epilogue) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Tile = WgmmaTile;
  using ATile = WgmmaOperandTile<T, kA>;
  using BTile = WgmmaOperandTile<T, kB>;
  constexpr int kAIsMnMajor = kA == Adjacent::across_lines,
                kBIsMnMajor = kB == Adjacent::across_lines;
  unsigned char* shared = ptx::dynamic_shared();
  const int64_t tiles_across = ceil_div(N, Tile::kCols);
  const int64_t first_row = blockIdx.x / tiles_across * Tile::kRows;
  const int64_t first_col = blockIdx.x % tiles_across * Tile::kCols;
  const int group_row = threadIdx.x / Tile::kGroup * Tile::kRowsOfGroup;

  const int64_t steps = ceil_div(K, Tile::kDepth);
  const auto fetch = [&](int64_t step) {
    if (step < steps) {
      unsigned char* stage = shared + step % Tile::kStages * Tile::kStageBytes;
      ATile::fetch(stage, a, first_row, step * Tile::kDepth, M, K);
      BTile::fetch(stage + Tile::kOperandBytes, b, first_col, step * Tile::kDepth, N, K);
    }
    ptx::cp_async_commit();
  };
  float sum[Tile::kCols / 2] = {};
  for (int step = 0; step < Tile::kStages - 1; ++step) fetch(step);
#pragma unroll 1
  for (int64_t step = 0; step < steps; ++step) {
    ptx::cp_async_wait<Tile::kStages - 2>();
    ptx::fence_async();  // wgmma sees what this thread has copied,
    __syncthreads();     // and the others; and all have done with the last step's tiles
    const unsigned char* a_tile = shared + step % Tile::kStages * Tile::kStageBytes;
    const unsigned char* b_tile = a_tile + Tile::kOperandBytes;
    ptx::wgmma_fence();
#pragma unroll
    for (int part = 0; part < Tile::kDepth / 16; ++part) {
      const uint64_t rows = ATile::descriptor(a_tile, group_row, part);
      const uint64_t cols = BTile::descriptor(b_tile, 0, part);
      if constexpr (std::is_same_v<T, bfloat16>)
        ptx::wgmma_bf16<kAIsMnMajor, kBIsMnMajor>(sum, rows, cols, true);
      else
        ptx::wgmma_f16<kAIsMnMajor, kBIsMnMajor>(sum, rows, cols, true);
    }
    ptx::wgmma_commit();
    fetch(step + Tile::kStages - 1);
    ptx::wgmma_wait<0>();
  }

  ptx::cp_async_wait<0>();
  __syncthreads();
  float* result = reinterpret_cast<float*>(shared);
  const int lane = threadIdx.x % kWarp;
  const int row = group_row + threadIdx.x % Tile::kGroup / kWarp * 16 + lane / 4;
#pragma unroll
  for (int r = 0; r < Tile::kCols / 2; r += 2) {
    const int col = r / 4 * 8 + lane % 4 * 2;
    *reinterpret_cast<Pack<float, 2>*>(result +
                                       (row + r % 4 / 2 * 8) * Tile::template kPitch<float> +
                                       col) = {{sum[r], sum[r + 1]}};
  }
  __syncthreads();
  for_rows<Tile>(result, first_row, first_col, M, N, epilogue);
#else
  (void)a, (void)b, (void)M, (void)N, (void)K, (void)epilogue;
  __trap();
#endif
}

// Whether wgmma is compiled in.
#if defined(__CUDACC__)
constexpr bool kHasWgmma =
    std::string_view(GDEXT_CUDA_ARCHS).find("9.0a") != std::string_view::npos;
#else
constexpr bool kHasWgmma = true;  // as C++, on the CPU
#endif

// Whether it has taken the product: not where an operand is not in pieces.
template <class T, Adjacent kA, Adjacent kB, class Epilogue>
bool gemm_wgmma(const char* name, Matrix a, Matrix b, int64_t M, int64_t N, int64_t K,
                Epilogue epilogue, Context context) {
  if constexpr (kHasWgmma) {
    const Operand rows = operand<T>(a.data, a.row_stride, a.col_stride, kA);
    const Operand cols = operand<T>(b.data, b.col_stride, b.row_stride, kB);
    if (!rows.in_pieces || !cols.in_pieces) return false;
    launch(name, gemm_wgmma_kernel<T, kA, kB, Epilogue>,
           {.blocks = ceil_div(M, WgmmaTile::kRows) * ceil_div(N, WgmmaTile::kCols),
            .threads = WgmmaTile::kThreads,
            .dynamic_shared = WgmmaTile::kSharedBytes},
           context, rows, cols, M, N, K, epilogue);
  }
  return kHasWgmma;
}

}  // namespace gdext::cuda
