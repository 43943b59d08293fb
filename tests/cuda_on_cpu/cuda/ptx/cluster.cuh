// csrc/cuda/ptx/cluster.cuh for the CPU.
#pragma once
#include <cuda_runtime.h>

namespace gdext::cuda::ptx {

inline unsigned cluster_rank() { return emulation::cluster_rank(); }
inline unsigned cluster_blocks() {
  const dim3 size = emulation::cluster_size();
  return size.x * size.y * size.z;
}
inline void cluster_arrive(EMULATION_WHERE) { emulation::cluster_arrive(where); }
inline void cluster_wait(EMULATION_WHERE) { emulation::cluster_wait(where); }
inline void cluster_sync(EMULATION_WHERE) {
  cluster_arrive(where);
  cluster_wait(where);
}
template <class T>
T* map_shared_rank(T* shared, unsigned rank, EMULATION_WHERE) {
  return static_cast<T*>(emulation::map_shared_rank(shared, rank, where));
}

}  // namespace gdext::cuda::ptx
