// Copies of boxes by a tensor map (cuda/tensor_map.cuh). PTX ISA, "cp.async.bulk.tensor".
#pragma once
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/ptx/shared.cuh"

namespace gdext::cuda::ptx {

// The box whose first element is (near, far) of the matrix, `near` counting along its adjacent
// elements; what lies outside the matrix is zeros, and counts among the bytes that the mbarrier is
// told of. `shared`: aligned to 128 bytes, 1024 for the swizzle to begin there. The map must be a
// __grid_constant__ parameter. One thread issues it. sm_90.
__device__ inline void tensor_load(void* shared, const CUtensorMap& map, int near, int far,
                                   uint64_t* shared_barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3}], [%4];" ::"r"(shared_address(shared)),
      "l"(reinterpret_cast<uint64_t>(&map)), "r"(near), "r"(far),
      "r"(shared_address(shared_barrier))
      : "memory");
#else
  (void)shared, (void)map, (void)near, (void)far, (void)shared_barrier;
  __trap();
#endif
}

}  // namespace gdext::cuda::ptx
