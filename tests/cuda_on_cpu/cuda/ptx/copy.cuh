// csrc/cuda/ptx/copy.cuh for the CPU.
#pragma once
#include <cuda_runtime.h>

#include "cuda/ptx/shared.cuh"
#include "emulation/copies.h"

namespace gdext::cuda::ptx {

template <int kBytes>
void cp_async(void* shared, const void* global, int bytes_read = kBytes, EMULATION_WHERE) {
  emulation::async_copy(shared, global, kBytes, bytes_read, where);
}
inline void cp_async_commit() { emulation::commit_copies(); }
template <int kGroups>
void cp_async_wait() {
  emulation::wait_for_copies(kGroups);
}

inline void mbarrier_init(uint64_t* shared_barrier, unsigned count, EMULATION_WHERE) {
  emulation::mbarrier_init(shared_barrier, count, where);
}
inline void fence_mbarrier_init() {}
inline void mbarrier_arrive(uint64_t* shared_barrier, EMULATION_WHERE) {
  emulation::mbarrier_arrive(shared_barrier, 0, where);
}
inline void mbarrier_arrive_expect(uint64_t* shared_barrier, unsigned bytes, EMULATION_WHERE) {
  emulation::mbarrier_arrive(shared_barrier, bytes, where);
}
inline void mbarrier_wait(uint64_t* shared_barrier, unsigned parity, EMULATION_WHERE) {
  emulation::mbarrier_wait(shared_barrier, parity, where);
}

inline void bulk_load(void* shared, const void* global, unsigned bytes, uint64_t* shared_barrier,
                      EMULATION_WHERE) {
  emulation::bulk_load(shared, global, bytes, shared_barrier, where);
}
inline void bulk_store(void* global, const void* shared, unsigned bytes, EMULATION_WHERE) {
  emulation::bulk_store(global, shared, bytes, where);
}
inline void bulk_store_commit() { emulation::commit_bulk_stores(); }
template <int kGroups>
void bulk_store_wait() {
  emulation::wait_for_bulk_stores(kGroups);
}
inline void fence_async() {}

}  // namespace gdext::cuda::ptx
