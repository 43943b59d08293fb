// csrc/cuda/ptx/wgmma.cuh for the CPU.
#pragma once
#include <cuda_runtime.h>

#include "cuda/ptx/descriptor.cuh"
#include "emulation/products.h"

namespace gdext::cuda::ptx {

inline void wgmma_fence(EMULATION_WHERE) { emulation::wgmma_fence(where); }
inline void wgmma_commit(EMULATION_WHERE) { emulation::wgmma_commit(where); }
template <int kGroups>
void wgmma_wait(EMULATION_WHERE) {
  emulation::wgmma_wait(kGroups, where);
}
template <int kRegisters>
void more_registers() {}
template <int kRegisters>
void fewer_registers() {}
template <int kRegisters>
void wgmma_tf32(float (&d)[kRegisters], uint64_t a, uint64_t b, bool accumulate, EMULATION_WHERE) {
  emulation::wgmma(emulation::Element::tf32, d, kRegisters, {a, false}, {b, false}, accumulate,
                   where);
}
template <int kAIsMnMajor, int kBIsMnMajor, int kRegisters>
void wgmma_bf16(float (&d)[kRegisters], uint64_t a, uint64_t b, bool accumulate, EMULATION_WHERE) {
  emulation::wgmma(emulation::Element::bf16, d, kRegisters, {a, kAIsMnMajor != 0},
                   {b, kBIsMnMajor != 0}, accumulate, where);
}
template <int kAIsMnMajor, int kBIsMnMajor, int kRegisters>
void wgmma_f16(float (&d)[kRegisters], uint64_t a, uint64_t b, bool accumulate, EMULATION_WHERE) {
  emulation::wgmma(emulation::Element::f16, d, kRegisters, {a, kAIsMnMajor != 0},
                   {b, kBIsMnMajor != 0}, accumulate, where);
}

}  // namespace gdext::cuda::ptx
