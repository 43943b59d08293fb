// Products of few tiles and much to add up: the blocks of a cluster share the k of a tile (sm_90).
//
// Of a tile's steps along k a block takes every `parts`-th and leaves its sums in its own shared
// memory. Then each finishes some of the tile's rows: it adds up the sums of all, in the order of
// the blocks, and runs the epilogue, once for each element. No atomics and no memory besides; the
// order depends on the shape and on the number of multiprocessors.
#pragma once
#include "cuda/common.cuh"
#include "cuda/ptx.cuh"

namespace gdext::cuda {

constexpr int kMostParts = 8;  // blocks of a cluster, which every device that has clusters allows

// What this block makes of a tile.
struct TilePart {
  int parts, rank;
  int64_t tile;

  __device__ explicit TilePart(int parts)
      : parts(parts),
        rank(parts == 1 ? 0 : static_cast<int>(ptx::cluster_rank())),
        tile(blockIdx.x / static_cast<unsigned>(parts)) {}

  // Of `all` steps: rank, rank + parts, ...
  __device__ int64_t steps(int64_t all) const { return ceil_div(all - rank, parts); }
};

// The sum of what the blocks have at the same place as this one at `own`.
template <class A>
__device__ A sum_of_parts(A* own, int parts) {
  A value[kMostParts];
#pragma unroll
  for (int r = 0; r < kMostParts; ++r)  // all on their way before the first is added
    value[r] = r < parts ? *ptx::map_shared_rank(own, r) : A(0);
  A sum = value[0];
#pragma unroll
  for (int r = 1; r < kMostParts; ++r) sum += value[r];
  return sum;
}

// How many blocks share each tile: as many as the device runs at once, two on a multiprocessor, if
// that leaves each of them `least` of k. `multiprocessors`: of a device that has clusters, or 0.
constexpr int parts_of_k(int64_t tiles, int64_t K, int64_t least, int multiprocessors) {
  int parts = 1;
  while (parts < kMostParts && 2 * parts * tiles <= kBlocksAtOnce * multiprocessors &&
         2 * parts * least <= K)
    parts *= 2;
  return parts;
}

inline int multiprocessors_for_clusters() {
  if (code_capability() < 90) return 0;
  int device = 0, multiprocessors = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  return multiprocessors;
}

}  // namespace gdext::cuda
