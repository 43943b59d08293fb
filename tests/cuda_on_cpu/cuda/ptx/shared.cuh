// csrc/cuda/ptx/shared.cuh for the CPU.
#pragma once
#include <cuda_runtime.h>

namespace gdext::cuda::ptx {

inline unsigned char* dynamic_shared(EMULATION_WHERE) { return emulation::dynamic_shared(where); }
inline uint32_t shared_address(const void* shared, EMULATION_WHERE) {
  return emulation::shared_address(shared, where);
}
inline void barrier_sync(int id, int threads, EMULATION_WHERE) {
  emulation::block_barrier(id, threads, true, false, "bar.sync", where);
}
inline void barrier_arrive(int id, int threads, EMULATION_WHERE) {
  emulation::block_barrier(id, threads, false, false, "bar.arrive", where);
}

}  // namespace gdext::cuda::ptx
