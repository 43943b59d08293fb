// gemm by tensor cores, a warpgroup at a time and straight out of shared memory (wgmma, sm_90a):
// what its two kernels share, gemm_wgmma_tma.cuh for 16-bit types and gemm_wgmma_tf32.cuh for
// float32 rounded to tf32. They differ in how operands get to shared memory.
//
// A block makes a tile of 128 x 256 of C. Two warpgroups multiply, each 64 rows, by instructions as
// wide as there are; a third one copies, kStages tiles ahead at most. Per byte of shared memory
// that is written and read this multiplies most: tiles of 128 x 128 would wait for shared memory a
// fifth of the time, and for the second-level cache too.
//
// A product of few tiles and much to add up (dw) is shared by a cluster: each block has a range of
// k, and in the end a range of the tile's rows, whose sums it adds up in the blocks' order.
#pragma once
#include <string_view>

#include "cuda/gemm_rows.cuh"

namespace gdext::cuda {

struct WgmmaTile {
  static constexpr int kRows = 128, kCols = 256, kStages = 4, kThreads = 384;
  static constexpr int kMultiplying = 256, kCopying = 128;  // threads, in this order
  static constexpr int kGroup = 128, kRowsOfGroup = 64;     // threads of a warpgroup, its rows
  static constexpr int kLineBytes = 128;                    // all of the swizzle's
  template <class T>
  static constexpr int kDepth = kLineBytes / static_cast<int>(sizeof(T));
  static constexpr int kParts = 4;  // of the depth: what an instruction multiplies

  // Operands lie in blocks of 64 lines, as wgmma reads them (ptx/descriptor.cuh): 64 lines of 128
  // bytes along k, or kDepth of them across, of 64 elements of 16 bits.
  static constexpr int kLinesOfBlock = 64, kBlockBytes = kLinesOfBlock * kLineBytes;
  static constexpr int kRowBlocks = kRows / kLinesOfBlock, kColBlocks = kCols / kLinesOfBlock;
  static constexpr int kColsAt = kRowBlocks * kBlockBytes;  // of a stage, after the rows
  static constexpr int kStageBytes = (kRowBlocks + kColBlocks) * kBlockBytes;

  static constexpr int kPitch = kCols + 8;  // of the sums, as MmaTile's
  static constexpr int kBarriersAt = kStages * kStageBytes;
  static constexpr int kSharedBytes = kBarriersAt + 2 * kStages * 8;
  static_assert(kBarriersAt >= kRows * kPitch * 4);

  // A stage's tile, and the mbarriers that tell that it is there, that it has been multiplied.
  __device__ static unsigned char* stage(int step) {
    return ptx::dynamic_shared() + step % kStages * kStageBytes;
  }
  __device__ static uint64_t* full(int step) {
    return reinterpret_cast<uint64_t*>(ptx::dynamic_shared() + kBarriersAt) + step % kStages;
  }
  __device__ static uint64_t* empty(int step) { return full(step) + kStages; }
  // Of their phase: steps count from 0 in each block.
  __device__ static unsigned parity(int step) { return step / kStages % 2; }
};

// The block's tile, and which of the blocks that share it this one is.
struct WgmmaShare {
  __device__ explicit WgmmaShare(int64_t N)
      : rank(ptx::cluster_rank()), blocks(ptx::cluster_blocks()) {
    const int tile = blockIdx.x / blocks;
    const int tiles_across = static_cast<int>(ceil_div(N, WgmmaTile::kCols));
    first_row = int64_t{tile / tiles_across} * WgmmaTile::kRows;
    first_col = int64_t{tile % tiles_across} * WgmmaTile::kCols;
  }
  // The block's steps along k are [first(rank), first(rank + 1)).
  __device__ int first(int of_rank, int64_t steps) const {
    return static_cast<int>(steps * of_rank / blocks);
  }

  int rank, blocks;
  int64_t first_row, first_col;
};

// From row (or column) `first`, a multiple of 64, and the `part`-th 32 bytes of k on.
template <Adjacent kAdjacent>
__device__ uint64_t wgmma_operand(const unsigned char* tile, int first, int part) {
  constexpr int kGroupBytes = 8 * WgmmaTile::kLineBytes;  // of 8 lines
  const unsigned char* start =
      tile + first / WgmmaTile::kLinesOfBlock * WgmmaTile::kBlockBytes +
      (kAdjacent == Adjacent::along_k ? part * 32 : part * 2 * kGroupBytes);
  return ptx::matrix_descriptor(start, ptx::Swizzle::bytes128, WgmmaTile::kBlockBytes, kGroupBytes);
}

// Named barriers, of those that multiply and of those that copy.
constexpr int kMultiplied = 1, kCopied = 2;

// kA, kB: which elements are adjacent in shared memory. Leaves the sums there, rows kPitch apart.
template <class T, Adjacent kA, Adjacent kB>
__device__ void multiply_stages(int steps) {
  using Tile = WgmmaTile;
  constexpr int kAIsMnMajor = kA == Adjacent::across_lines,
                kBIsMnMajor = kB == Adjacent::across_lines;
  const int lane = threadIdx.x % kWarp;
  const int group_row = threadIdx.x / Tile::kGroup * Tile::kRowsOfGroup;
  float sum[Tile::kCols / 2] = {};
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    const unsigned char* tile = Tile::stage(step);
    ptx::mbarrier_wait(Tile::full(step), Tile::parity(step));
    ptx::wgmma_fence();
#pragma unroll
    for (int part = 0; part < Tile::kParts; ++part) {
      const uint64_t rows = wgmma_operand<kA>(tile, group_row, part);
      const uint64_t cols = wgmma_operand<kB>(tile + Tile::kColsAt, 0, part);
      if constexpr (std::is_same_v<T, float>)
        ptx::wgmma_tf32(sum, rows, cols, true);
      else if constexpr (std::is_same_v<T, bfloat16>)
        ptx::wgmma_bf16<kAIsMnMajor, kBIsMnMajor>(sum, rows, cols, true);
      else
        ptx::wgmma_f16<kAIsMnMajor, kBIsMnMajor>(sum, rows, cols, true);
    }
    ptx::wgmma_commit();
    // This step's products run on while the last step's tile is given back.
    ptx::wgmma_wait<1>();
    __syncwarp();
    if (step > 0 && lane == 0) ptx::mbarrier_arrive(Tile::empty(step - 1));
  }
  ptx::wgmma_wait<0>();
  ptx::barrier_sync(kMultiplied, Tile::kMultiplying);  // none of the tiles is needed any more
  float* result = reinterpret_cast<float*>(ptx::dynamic_shared());
  const int row = group_row + threadIdx.x % Tile::kGroup / kWarp * 16 + lane / 4;
#pragma unroll
  for (int r = 0; r < Tile::kCols / 2; r += 2) {
    const int col = r / 4 * 8 + lane % 4 * 2;
    *reinterpret_cast<Pack<float, 2>*>(result + (row + r % 4 / 2 * 8) * Tile::kPitch +
                                       col) = {{sum[r], sum[r + 1]}};
  }
}

// kArrivals: of those that copy, for each tile. copy(share, first, last): the tile's steps
// [first, last) along k, by the threads from kMultiplying on. checked(m, n, sum): the sum, or what
// is right instead.
template <class T, Adjacent kA, Adjacent kB, int kArrivals, class Copy, class Checked,
          class Epilogue>
__device__ void make_wgmma_tile(int64_t M, int64_t N, int64_t K, const Copy& copy,
                                const Checked& checked, const Epilogue& epilogue) {
  using Tile = WgmmaTile;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Tile::kStages; ++stage) {
      ptx::mbarrier_init(Tile::full(stage), kArrivals);
      ptx::mbarrier_init(Tile::empty(stage), Tile::kMultiplying / kWarp);
    }
    ptx::fence_mbarrier_init();
  }
  __syncthreads();

  // What a thread may have of 64 K; the copies of tf32 need more, the sums less. Given back where
  // both go on.
  constexpr int kOfEach = 168, kToMultiply = 160, kToCopy = 3 * kOfEach - 2 * kToMultiply;
  {
    const WgmmaShare share(N);
    const int64_t steps = ceil_div(K, Tile::kDepth<T>);
    const int first = share.first(share.rank, steps), last = share.first(share.rank + 1, steps);
    if (threadIdx.x < Tile::kMultiplying) {
      ptx::fewer_registers<kToMultiply>();
      multiply_stages<T, kA, kB>(last - first);
      ptx::more_registers<kOfEach>();
    } else {
      ptx::more_registers<kToCopy>();
      copy(share, first, last);
      // Between two changes of its registers a warpgroup must meet, as those that multiply have.
      ptx::barrier_sync(kCopied, Tile::kCopying);
      ptx::fewer_registers<kOfEach>();
    }
  }
  // Counted anew: that is cheaper than registers for it all the while.
  const WgmmaShare share(N);
  float* result = reinterpret_cast<float*>(ptx::dynamic_shared());
  const int rows = Tile::kRows / share.blocks, begin = rows * share.rank;
  if (share.blocks == 1) {
    __syncthreads();
  } else {
    ptx::cluster_sync();
    add_up_rows<Tile>(result, begin, begin + rows, share.blocks);
  }
  finish_rows<Tile>(result, begin, begin + rows, share.first_row, share.first_col, M, N, checked,
                    epilogue);
  if (share.blocks > 1) ptx::cluster_sync();  // none leaves while others read its sums
}

// Whether wgmma is compiled in.
#if defined(__CUDACC__)
constexpr bool kHasWgmma =
    std::string_view(GDEXT_CUDA_ARCHS).find("9.0a") != std::string_view::npos;
#else
constexpr bool kHasWgmma = true;  // as C++, on the CPU
#endif

// Of an H100; each holds one block.
constexpr int64_t kMultiprocessorsOfSm90 = 132;

inline int64_t wgmma_tiles(int64_t M, int64_t N) {
  return ceil_div(M, WgmmaTile::kRows) * ceil_div(N, WgmmaTile::kCols);
}

// How many blocks share a tile, by the shape alone: as many as there is room for, of 8 steps each.
template <class T>
int blocks_of_wgmma_tile(int64_t M, int64_t N, int64_t K) {
  constexpr int kMost = 4, kLeastSteps = 8;
  const int64_t tiles = wgmma_tiles(M, N), steps = ceil_div(K, WgmmaTile::kDepth<T>);
  int blocks = 1;
  while (blocks < kMost && 2 * blocks * tiles <= kMultiprocessorsOfSm90 &&
         2 * blocks * kLeastSteps <= steps)
    blocks *= 2;
  return blocks;
}

// Whether the blocks are enough for three quarters of the device.
template <class T>
bool is_worth_wgmma(int64_t M, int64_t N, int64_t K) {
  return 4 * wgmma_tiles(M, N) * blocks_of_wgmma_tile<T>(M, N, K) >= 3 * kMultiprocessorsOfSm90;
}

template <class T>
LaunchShape wgmma_launch(int64_t M, int64_t N, int64_t K) {
  const int blocks = blocks_of_wgmma_tile<T>(M, N, K);
  return {.blocks = wgmma_tiles(M, N) * blocks,
          .threads = WgmmaTile::kThreads,
          .dynamic_shared = WgmmaTile::kSharedBytes,
          .cluster = blocks};
}

}  // namespace gdext::cuda
