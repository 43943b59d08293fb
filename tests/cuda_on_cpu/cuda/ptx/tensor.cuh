// csrc/cuda/ptx/tensor.cuh for the CPU.
#pragma once
#include <cuda_runtime.h>

#include "cuda/ptx/shared.cuh"
#include "emulation/tensor_maps.h"

namespace gdext::cuda::ptx {

inline void tensor_load(void* shared, const CUtensorMap& map, int near, int far,
                        uint64_t* shared_barrier, EMULATION_WHERE) {
  emulation::tensor_load(shared, map, near, far, shared_barrier, where);
}

}  // namespace gdext::cuda::ptx
