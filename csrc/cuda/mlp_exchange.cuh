// What the blocks of a resident run (mlp_resident.cuh) tell each other, in phases: each block puts
// numbers into the areas of some or all blocks, all meet, and each reads its own area. There are
// two sets of areas, used in turn, so that one meeting for each phase is enough: who writes a set
// again has met the others after they had read it.
#pragma once
#include <cooperative_groups.h>

#include "cuda/common.cuh"
#include "cuda/ptx.cuh"

namespace gdext::cuda {

// The two sets of areas of `size` numbers each.
class Areas {
 public:
  // What the others have put here before the last meeting; by put_copy, `copied`.
  __device__ const float* area() const { return areas_ + read_ * size_; }
  __device__ const float* copied() const { return area(); }

 protected:
  __device__ Areas(float* areas, int size) : areas_(areas), size_(size) {}
  __device__ int put_at(int at) const { return phase_ * size_ + at; }
  // All have met: what was put is read, and the other set is put into.
  __device__ void turn() {
    read_ = phase_;
    phase_ ^= 1;
  }
  float* areas_;
  int size_, phase_ = 0, read_ = 0;
};

// A single block: it tells itself.
class LocalExchange : public Areas {
 public:
  static constexpr bool kManyBlocks = false;
  __device__ LocalExchange(float* shared, float*, int size) : Areas(shared, size) {}
  __device__ static int rank() { return 0; }
  __device__ static void begin() { __syncthreads(); }
  __device__ void put(int, int at, float value) { areas_[put_at(at)] = value; }
  __device__ static int copies() { return 1; }
  __device__ void put_copy(int, int at, float value) { put(0, at, value); }
  __device__ void meet() {
    __syncthreads();
    turn();
  }
};

// The blocks of a cluster, by their shared memory.
class ClusterExchange : public Areas {
 public:
  static constexpr bool kManyBlocks = false;
  __device__ ClusterExchange(float* shared, float*, int size) : Areas(shared, size) {}
  __device__ static int rank() { return static_cast<int>(ptx::cluster_rank()); }
  // Before the first put: all blocks have begun.
  __device__ static void begin() { ptx::cluster_sync(); }
  __device__ void put(int to, int at, float value) {
    ptx::map_shared_rank(areas_, static_cast<unsigned>(to))[put_at(at)] = value;
  }
  // To tell all is to tell each.
  __device__ static int copies() { return static_cast<int>(ptx::cluster_blocks()); }
  __device__ void put_copy(int copy, int at, float value) { put(copy, at, value); }
  __device__ void meet() {
    __syncwarp();  // its lanes come together, as the barrier wants them
    ptx::cluster_sync();
    turn();
  }
};

// All blocks of a cooperative grid, by global memory: an area for each block, and one for all. Of
// the last use of a set nothing is left in a cache: a meeting of the grid is a fence.
class GridExchange : public Areas {
 public:
  static constexpr bool kManyBlocks = true;  // so many that a warp adds up what they have told
  __device__ GridExchange(float*, float* global, int size) : Areas(global, size) {}
  __device__ static int rank() { return static_cast<int>(blockIdx.x); }
  __device__ static void begin() { __syncthreads(); }
  __device__ void put(int to, int at, float value) { set(phase_)[to * size_ + at] = value; }
  __device__ static int copies() { return 1; }
  __device__ void put_copy(int, int at, float value) {
    set(phase_)[static_cast<int64_t>(gridDim.x) * size_ + at] = value;
  }
  __device__ void meet() {
    cooperative_groups::this_grid().sync();
    turn();
  }
  __device__ const float* area() const { return set(read_) + rank() * static_cast<int64_t>(size_); }
  __device__ const float* copied() const {
    return set(read_) + static_cast<int64_t>(gridDim.x) * size_;
  }

 private:
  __device__ float* set(int which) const {
    return areas_ + which * (static_cast<int64_t>(gridDim.x) + 1) * size_;
  }
};

}  // namespace gdext::cuda
