// gemm of 16-bit types by wgmma (gemm_wgmma.cuh), for operands whose rows or columns are aligned to
// 16 bytes.
//
// One thread has the hardware copy: boxes of 64 x 64 elements, described by tensor maps, swizzled
// as wgmma reads them; zeros are what lies outside the operands. The maps are parameters of the
// kernel, so that a CUDA graph holds them.
#pragma once
#include "cuda/gemm_wgmma.cuh"
#include "cuda/tensor_map.cuh"

namespace gdext::cuda {

constexpr int kBox = WgmmaTile::kLinesOfBlock;

template <Adjacent kAdjacent>
__device__ void load_boxes(unsigned char* tile, int boxes, const CUtensorMap& map, int64_t line,
                           int64_t k, uint64_t* full) {
#pragma unroll
  for (int box = 0; box < boxes; ++box, tile += WgmmaTile::kBlockBytes, line += kBox)
    if constexpr (kAdjacent == Adjacent::along_k)
      ptx::tensor_load(tile, map, static_cast<int>(k), static_cast<int>(line), full);
    else
      ptx::tensor_load(tile, map, static_cast<int>(line), static_cast<int>(k), full);
}

// The tile's steps [first, last) along k.
template <Adjacent kA, Adjacent kB>
__device__ void copy_boxes(const CUtensorMap& a, const CUtensorMap& b, const WgmmaShare& share,
                           int first, int last) {
  using Tile = WgmmaTile;
  static_assert(Tile::kDepth<bfloat16> == kBox);
  if (threadIdx.x == Tile::kMultiplying)
#pragma unroll 1
    for (int step = 0; step < last - first; ++step) {
      unsigned char* tile = Tile::stage(step);
      uint64_t* full = Tile::full(step);
      const int64_t k = int64_t{first + step} * kBox;
      if (step >= Tile::kStages) ptx::mbarrier_wait(Tile::empty(step), Tile::parity(step) ^ 1);
      ptx::mbarrier_arrive_expect(full, Tile::kStageBytes);
      load_boxes<kA>(tile, Tile::kRowBlocks, a, share.first_row, k, full);
      load_boxes<kB>(tile + Tile::kColsAt, Tile::kColBlocks, b, share.first_col, k, full);
    }
  __syncwarp();
}

template <class T, Adjacent kA, Adjacent kB, class Epilogue>
__global__ void __launch_bounds__(WgmmaTile::kThreads, 1)
    gemm_wgmma_kernel(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b,
                      int64_t M, int64_t N, int64_t K, Epilogue epilogue) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  const auto copy = [&](const WgmmaShare& share, int first, int last) {
    copy_boxes<kA, kB>(a, b, share, first, last);
  };
  const auto checked = [](int64_t, int64_t, float sum) { return sum; };
  make_wgmma_tile<T, kA, kB, 1>(M, N, K, copy, checked, epilogue);
#else
  (void)a, (void)b, (void)M, (void)N, (void)K, (void)epilogue;
  __trap();
#endif
}

// `lines` lines of `depth` along k, in boxes.
template <class T, Adjacent kAdjacent>
bool operand_map(CUtensorMap& map, const Operand& operand, int64_t lines, int64_t depth) {
  if (!operand.in_pieces) return false;
  if constexpr (kAdjacent == Adjacent::along_k)
    return tensor_map<T>(map, operand.data, depth, lines, operand.line_stride, kBox);
  else
    return tensor_map<T>(map, operand.data, lines, depth, operand.k_stride, kBox);
}

// Whether it has taken the product: not where an operand has no tensor map.
template <class T, Adjacent kA, Adjacent kB, class Epilogue>
bool gemm_wgmma(const char* name, Matrix a, Matrix b, int64_t M, int64_t N, int64_t K,
                Epilogue epilogue, Context context) {
  if constexpr (kHasWgmma) {
    const Operand rows = operand<T>(a.data, a.row_stride, a.col_stride, kA);
    const Operand cols = operand<T>(b.data, b.col_stride, b.row_stride, kB);
    CUtensorMap of_rows, of_cols;
    if (!operand_map<T, kA>(of_rows, rows, M, K) || !operand_map<T, kB>(of_cols, cols, N, K))
      return false;
    launch(name, gemm_wgmma_kernel<T, kA, kB, Epilogue>, wgmma_launch<T>(M, N, K), context, of_rows,
           of_cols, M, N, K, epilogue);
  }
  return kHasWgmma;
}

}  // namespace gdext::cuda
