// Stands in for CUDA's <cooperative_groups.h>: blocks, tiles of a warp, clusters and grids.
#pragma once
#include <cuda_runtime.h>

namespace cooperative_groups {

class thread_block {
 public:
  static void sync(EMULATION_WHERE) { __syncthreads(where); }
  static unsigned thread_rank() {
    return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  }
  static unsigned size() { return blockDim.x * blockDim.y * blockDim.z; }
  static unsigned num_threads() { return size(); }
};
inline thread_block this_thread_block() { return {}; }

// kSize neighbouring lanes.
template <unsigned kSize>
class thread_block_tile {
  static_assert(kSize > 0 && kSize <= warpSize && (kSize & (kSize - 1)) == 0);

 public:
  static unsigned thread_rank() { return thread_block::thread_rank() % kSize; }
  static unsigned size() { return kSize; }
  static unsigned meta_group_rank() { return thread_block::thread_rank() / kSize; }
  static unsigned meta_group_size() { return (thread_block::size() + kSize - 1) / kSize; }
  void sync(EMULATION_WHERE) const { __syncwarp(mask(), where); }
  template <class T>
  T shfl(T value, int source, EMULATION_WHERE) const {
    return __shfl_sync(mask(), value, source, kSize, where);
  }
  template <class T>
  T shfl_up(T value, unsigned delta, EMULATION_WHERE) const {
    return __shfl_up_sync(mask(), value, delta, kSize, where);
  }
  template <class T>
  T shfl_down(T value, unsigned delta, EMULATION_WHERE) const {
    return __shfl_down_sync(mask(), value, delta, kSize, where);
  }
  template <class T>
  T shfl_xor(T value, unsigned lane_mask, EMULATION_WHERE) const {
    return __shfl_xor_sync(mask(), value, lane_mask, kSize, where);
  }
  unsigned ballot(int predicate, EMULATION_WHERE) const {
    return __ballot_sync(mask(), predicate, where) >> begin();
  }
  int any(int predicate, EMULATION_WHERE) const { return ballot(predicate, where) != 0; }
  int all(int predicate, EMULATION_WHERE) const { return ballot(!predicate, where) == 0; }

 private:
  static int begin() { return emulation::lane() / kSize * kSize; }
  static unsigned mask() { return (0xffffffffu >> (warpSize - kSize)) << begin(); }
};
template <unsigned kSize>
thread_block_tile<kSize> tiled_partition(const thread_block&) {
  return {};
}

class cluster_group {
 public:
  static void sync(EMULATION_WHERE) {
    emulation::cluster_arrive(where);
    emulation::cluster_wait(where);
  }
  static void barrier_arrive(EMULATION_WHERE) { emulation::cluster_arrive(where); }
  static void barrier_wait(EMULATION_WHERE) { emulation::cluster_wait(where); }
  static unsigned block_rank() { return emulation::cluster_rank(); }
  static dim3 dim_blocks() { return emulation::cluster_size(); }
  static unsigned num_blocks() { return dim_blocks().x * dim_blocks().y * dim_blocks().z; }
  template <class T>
  static T* map_shared_rank(T* shared, unsigned rank, EMULATION_WHERE) {
    return static_cast<T*>(emulation::map_shared_rank(shared, rank, where));
  }
};
inline cluster_group this_cluster() { return {}; }

class grid_group {
 public:
  static void sync(EMULATION_WHERE) { emulation::grid_barrier(where); }
  static unsigned long long num_blocks() {
    return static_cast<unsigned long long>(gridDim.x) * gridDim.y * gridDim.z;
  }
  static unsigned long long block_rank() {
    return blockIdx.x +
           gridDim.x * (blockIdx.y + static_cast<unsigned long long>(gridDim.y) * blockIdx.z);
  }
  static unsigned long long size() { return num_blocks() * thread_block::size(); }
  static unsigned long long thread_rank() {
    return block_rank() * thread_block::size() + thread_block::thread_rank();
  }
};
inline grid_group this_grid() { return {}; }

}  // namespace cooperative_groups
