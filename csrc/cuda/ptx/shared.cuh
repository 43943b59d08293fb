// Dynamic shared memory, addresses in it, and barriers of some of a block's warps.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace gdext::cuda::ptx {

// The launch's dynamic shared memory, aligned for every tile (wgmma's 128-byte swizzle repeats
// every 1024 bytes).
__device__ inline unsigned char* dynamic_shared() {
  extern __shared__ __align__(1024) unsigned char gdext_dynamic_shared[];
  return gdext_dynamic_shared;
}

__device__ inline uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// bar.sync, bar.arrive: `threads` (a multiple of 32) of the block meet at barrier `id`, 1 to 15 (0
// is __syncthreads'); those that arrive only do not wait.
__device__ inline void barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ inline void barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace gdext::cuda::ptx
