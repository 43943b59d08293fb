// Clusters: blocks that run at the same time and reach each other's shared memory. A launch without
// clusters has clusters of one block. PTX ISA, "barrier.cluster", "mapa". sm_90, all of these.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace gdext::cuda::ptx {

__device__ inline unsigned cluster_rank() {
  unsigned rank = 0;
#if __CUDA_ARCH__ >= 900
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#else
  __trap();
#endif
  return rank;
}
__device__ inline unsigned cluster_blocks() {
  unsigned blocks = 1;
#if __CUDA_ARCH__ >= 900
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
#else
  __trap();
#endif
  return blocks;
}

// All threads of the cluster meet; what they have written before is seen after it. No block may
// touch another's shared memory before a first, nor leave before a last such meeting.
__device__ inline void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
  __syncwarp();  // lanes that had nothing to do may have run ahead
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#else
  __trap();
#endif
}
__device__ inline void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  __syncwarp();
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __trap();
#endif
}
__device__ inline void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}

// Where `shared` is in the shared memory of the cluster's block `rank`.
template <class T>
__device__ T* map_shared_rank(T* shared, unsigned rank) {
  uint64_t result = 0;
#if __CUDA_ARCH__ >= 900
  asm volatile("mapa.u64 %0, %1, %2;"
               : "=l"(result)
               : "l"(reinterpret_cast<uint64_t>(shared)), "r"(rank));
#else
  (void)shared, (void)rank;
  __trap();
#endif
  return reinterpret_cast<T*>(result);
}

}  // namespace gdext::cuda::ptx
