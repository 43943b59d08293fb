// gemm of float32 rounded to tf32 by wgmma (gemm_wgmma.cuh), for operands whose rows or columns are
// aligned to 16 bytes.
//
// wgmma takes operands out of shared memory as they are: it cuts off what tf32 does not hold, where
// we round to nearest, and its lines of tf32 must run along k. So copies go from global memory to
// registers and from there to shared memory, rounded and transposed on the way.
#pragma once
#include "cuda/gemm_wgmma.cuh"

namespace gdext::cuda {

// A thread's share of an operand's tile, between global and shared memory: of each block of 64
// lines 4 pieces, which in shared memory are 4 elements along k.
template <Adjacent kAdjacent, int kBlocks>
class Tf32Pieces {
 public:
  using Tile = WgmmaTile;
  static constexpr int kDepth = Tile::kDepth<float>;
  static constexpr bool kAlongK = kAdjacent == Adjacent::along_k;
  static constexpr int kCount = 4;

  // Where in a block a thread's i-th piece goes. Of 8 threads that store at once no two reach the
  // same 16 bytes of the 128 that all banks have: they store one line; or, of pieces transposed, 4
  // pieces of a line and 4 of the line that is 4 further on, whose spread differs.
  GDEXT_HD static constexpr uint32_t place(int thread, int i) {
    return ptx::swizzled(first_line(thread, i) * Tile::kLineBytes + first_k(thread) * 4,
                         ptx::Swizzle::bytes128);
  }

  // Before the tile of that step.
  __device__ Tf32Pieces(const Operand& operand, int64_t first, int64_t lines, int step)
      : lines_(lines - first < Tile::kCols ? static_cast<int>(lines - first) : Tile::kCols) {
    from_ = static_cast<const float*>(operand.data) +
            (first + first_line(thread(), 0)) * operand.line_stride +
            (int64_t{step} * kDepth + first_k(thread())) * operand.k_stride;
  }

  // Reads a block of the tile, of which `depth` elements along k are left; zeros are what lies
  // outside.
  __device__ void load(const Operand& operand, int block, int depth) {
    const float* from = from_ + block * Tile::kLinesOfBlock * operand.line_stride;
    const int64_t next = kAlongK ? kLinesAtOnce * operand.line_stride : operand.k_stride;
    const int lines = lines_ - block * Tile::kLinesOfBlock;
    if (lines >= Tile::kLinesOfBlock && depth >= kDepth) {
#pragma unroll
      for (int i = 0; i < kCount; ++i)
        value_[block][i] = *reinterpret_cast<const Pack<float, 4>*>(from + i * next);
      return;
    }
    const int line = lines - first_line(thread(), 0), k = depth - first_k(thread());
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int left = kAlongK ? (line > i * kLinesAtOnce ? k : 0) : (k > i ? line : 0);
      value_[block][i] = {};
      if (left >= 4)
        value_[block][i] = *reinterpret_cast<const Pack<float, 4>*>(from + i * next);
      else
#pragma unroll
        for (int j = 0; j < 3; ++j)
          if (j < left) value_[block][i].value[j] = from[i * next + j];
    }
  }
  __device__ void advance(const Operand& operand) { from_ += kDepth * operand.k_stride; }

  __device__ void store(unsigned char* tile, int block) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      Pack<uint32_t, 4> rounded;
#pragma unroll
      for (int j = 0; j < 4; ++j)
        rounded.value[j] =
            ptx::to_tf32(kAlongK ? value_[block][i].value[j] : value_[block][j].value[i]);
      *reinterpret_cast<Pack<uint32_t, 4>*>(tile + block * Tile::kBlockBytes + place(thread(), i)) =
          rounded;
    }
  }

 private:
  static constexpr int kPiecesOfLine = Tile::kLineBytes / kPiece;
  static constexpr int kLinesAtOnce = Tile::kCopying / kPiecesOfLine;
  static_assert(kLinesAtOnce * kCount == Tile::kLinesOfBlock && kLinesAtOnce % 8 == 0);

  __device__ static int thread() { return threadIdx.x - Tile::kMultiplying; }
  // Of pieces transposed: a warp has 4 of the 8 along k and 8 times 4 lines, so that it reads whole
  // 128 bytes of global memory.
  GDEXT_HD static constexpr int first_line(int thread, int i) {
    return kAlongK ? thread / kPiecesOfLine + i * kLinesAtOnce
                   : thread / (2 * kWarp) * kWarp + thread % kWarp / 4 * 4 + i;
  }
  GDEXT_HD static constexpr int first_k(int thread) {
    return 4 * (kAlongK ? thread % kPiecesOfLine : thread / kWarp % 2 * 4 + thread % 4);
  }

  const float* from_;  // the thread's first piece
  int lines_;          // left from the tile's first
  Pack<float, 4> value_[kBlocks][kCount];
};

// The tile's steps [first, last) along k.
template <Adjacent kA, Adjacent kB>
__device__ void copy_rounded(const Operand& a, const Operand& b, const WgmmaShare& share, int64_t M,
                             int64_t N, int64_t K, int first, int last) {
  using Tile = WgmmaTile;
  constexpr int kDepth = Tile::kDepth<float>;
  Tf32Pieces<kA, Tile::kRowBlocks> rows(a, share.first_row, M, first);
  Tf32Pieces<kB, Tile::kColBlocks> cols(b, share.first_col, N, first);
  const auto left = [&](int step) {  // of K, in that step's tile
    const int64_t depth = step < last ? K - int64_t{step} * kDepth : 0;
    return depth < kDepth ? static_cast<int>(depth) : kDepth;
  };
  int depth = left(first);
#pragma unroll
  for (int block = 0; block < Tile::kRowBlocks; ++block) rows.load(a, block, depth);
#pragma unroll
  for (int block = 0; block < Tile::kColBlocks; ++block) cols.load(b, block, depth);
#pragma unroll 1
  for (int step = 0; step < last - first; ++step) {
    unsigned char* tile = Tile::stage(step);
    if (step >= Tile::kStages) ptx::mbarrier_wait(Tile::empty(step), Tile::parity(step) ^ 1);
    // The next tile is on its way as soon as there are registers for it.
    depth = left(first + step + 1);
    rows.advance(a);
    cols.advance(b);
#pragma unroll
    for (int block = 0; block < Tile::kRowBlocks; ++block) {
      rows.store(tile, block);
      rows.load(a, block, depth);
    }
#pragma unroll
    for (int block = 0; block < Tile::kColBlocks; ++block) {
      cols.store(tile + Tile::kColsAt, block);
      cols.load(b, block, depth);
    }
    ptx::fence_async();  // wgmma sees what this thread has stored,
    __syncwarp();        // and the others of its warp
    if (threadIdx.x % kWarp == 0) ptx::mbarrier_arrive(Tile::full(step));
  }
}

template <Adjacent kA, Adjacent kB, class Epilogue>
__global__ void __launch_bounds__(WgmmaTile::kThreads, 1)
    gemm_wgmma_tf32_kernel(Operand a, Operand b, int64_t M, int64_t N, int64_t K,
                           Epilogue epilogue) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  const auto copy = [&](const WgmmaShare& share, int first, int last) {
    copy_rounded<kA, kB>(a, b, share, M, N, K, first, last);
  };
  // As gemm_mma_kernel's: what is rounded on the way may overflow, and is made anew.
  const auto checked = [&](int64_t m, int64_t n, float sum) {
    constexpr float kNearOverflow = 0x1p127f;
    return std::abs(sum) < kNearOverflow ? sum : plain_element<float>(a, b, m, n, K);
  };
  make_wgmma_tile<float, Adjacent::along_k, Adjacent::along_k, WgmmaTile::kCopying / kWarp>(
      M, N, K, copy, checked, epilogue);
#else
  (void)a, (void)b, (void)M, (void)N, (void)K, (void)epilogue;
  __trap();
#endif
}

// Whether it has taken the product: not where an operand is not in pieces.
template <Adjacent kA, Adjacent kB, class Epilogue>
bool gemm_wgmma_tf32(const char* name, Matrix a, Matrix b, int64_t M, int64_t N, int64_t K,
                     Epilogue epilogue, Context context) {
  if constexpr (kHasWgmma) {
    const Operand rows = operand<float>(a.data, a.row_stride, a.col_stride, kA);
    const Operand cols = operand<float>(b.data, b.col_stride, b.row_stride, kB);
    constexpr int64_t kMost = std::numeric_limits<int>::max();  // steps are counted in 32 bits
    if (!rows.in_pieces || !cols.in_pieces || K > kMost) return false;
    launch(name, gemm_wgmma_tf32_kernel<kA, kB, Epilogue>, wgmma_launch<float>(M, N, K), context,
           rows, cols, M, N, K, epilogue);
  }
  return kHasWgmma;
}

}  // namespace gdext::cuda
