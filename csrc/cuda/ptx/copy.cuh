// Copies between global and shared memory that go on beside the thread, and the mbarriers that tell
// when they are done. PTX ISA, "Data Movement and Conversion Instructions: Asynchronous copy" and
// "Parallel Synchronization and Communication Instructions: mbarrier".
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/ptx/shared.cuh"

namespace gdext::cuda::ptx {

// Copies kBytes (4, 8 or 16, and both addresses are multiples of it), of which the first
// `bytes_read` are read and the others are zeros. sm_80.
template <int kBytes>
__device__ void cp_async(void* shared, const void* global, int bytes_read = kBytes) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
#if __CUDA_ARCH__ >= 800
  if constexpr (kBytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                 "l"(global), "r"(bytes_read)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)),
                 "l"(global), "n"(kBytes), "r"(bytes_read)
                 : "memory");
#else
  (void)shared, (void)global, (void)bytes_read;
  __trap();
#endif
}

// The thread's copies since the last commit become a group. sm_80.
__device__ inline void cp_async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  __trap();
#endif
}

// Waits until at most kGroups of the thread's groups, the last, are under way. What other threads
// have copied needs a barrier as well. sm_80.
template <int kGroups>
__device__ void cp_async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#else
  __trap();
#endif
}

// An mbarrier, 8 bytes in shared memory, completes a phase when `count` threads have arrived and
// all bytes announced have come; phases have parities 0, 1, 0, ... One thread initialises it; the
// others may use it after fence_mbarrier_init and a barrier. sm_90, all of these.
__device__ inline void mbarrier_init(uint64_t* shared_barrier, unsigned count) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(shared_barrier)),
               "r"(count)
               : "memory");
#else
  (void)shared_barrier, (void)count;
  __trap();
#endif
}
__device__ inline void fence_mbarrier_init() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#else
  __trap();
#endif
}
__device__ inline void mbarrier_arrive(uint64_t* shared_barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(shared_barrier))
               : "memory");
#else
  (void)shared_barrier;
  __trap();
#endif
}
// Arrives, and announces bytes that bulk copies will bring in this phase.
__device__ inline void mbarrier_arrive_expect(uint64_t* shared_barrier, unsigned bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                   shared_address(shared_barrier)),
               "r"(bytes)
               : "memory");
#else
  (void)shared_barrier, (void)bytes;
  __trap();
#endif
}
// Waits for the end of the phase of this parity: returns at once if it is over.
__device__ inline void mbarrier_wait(uint64_t* shared_barrier, unsigned parity) {
#if __CUDA_ARCH__ >= 900
  uint32_t done = 0;
  while (!done)
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}\n"
        : "=r"(done)
        : "r"(shared_address(shared_barrier)), "r"(parity)
        : "memory");
#else
  (void)shared_barrier, (void)parity;
  __trap();
#endif
}

// Copies `bytes`, a multiple of 16 as are both addresses; the mbarrier is told of the bytes. One
// thread issues it. sm_90.
__device__ inline void bulk_load(void* shared, const void* global, unsigned bytes,
                                 uint64_t* shared_barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];" ::"r"(shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(shared_barrier))
      : "memory");
#else
  (void)shared, (void)global, (void)bytes, (void)shared_barrier;
  __trap();
#endif
}
// The other way, in groups of the thread's. What the block's threads have written to shared memory
// is seen after their fence_async and a barrier. sm_90.
__device__ inline void bulk_store(void* global, const void* shared, unsigned bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global),
               "r"(shared_address(shared)), "r"(bytes)
               : "memory");
#else
  (void)global, (void)shared, (void)bytes;
  __trap();
#endif
}
__device__ inline void bulk_store_commit() {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#else
  __trap();
#endif
}
template <int kGroups>
__device__ void bulk_store_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kGroups) : "memory");
#else
  __trap();
#endif
}

// Bulk copies and wgmma reach shared memory by another way (the async proxy) than loads and stores:
// what this thread has written is seen there from here on. sm_90.
__device__ inline void fence_async() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
  __trap();
#endif
}

}  // namespace gdext::cuda::ptx
