// csrc/cuda/ptx/mma.cuh for the CPU.
#pragma once
#include <cuda_runtime.h>

#include "cuda/ptx/shared.cuh"
#include "emulation/products.h"

namespace gdext::cuda::ptx {

inline uint32_t to_tf32(float value) { return emulation::to_tf32(value); }
inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                             const float (&c)[4], EMULATION_WHERE) {
  emulation::mma(emulation::Element::tf32, d, a, b, c, where);
}
inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                              const float (&c)[4], EMULATION_WHERE) {
  emulation::mma(emulation::Element::bf16, d, a, b, c, where);
}
inline void mma_m16n8k8_f16(float (&d)[4], const uint32_t (&a)[2], uint32_t b, const float (&c)[4],
                            EMULATION_WHERE) {
  emulation::mma_f16_k8(d, a, b, c, where);
}
inline void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                             const float (&c)[4], EMULATION_WHERE) {
  emulation::mma(emulation::Element::f16, d, a, b, c, where);
}
inline void mma_m8n8k4_f64(double (&d)[2], double a, double b, const double (&c)[2],
                           EMULATION_WHERE) {
  emulation::mma_f64(d, a, b, c, where);
}
inline void ldmatrix_x4(uint32_t (&r)[4], const void* shared_row, EMULATION_WHERE) {
  emulation::ldmatrix(r, 4, false, shared_row, where);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared_row, EMULATION_WHERE) {
  emulation::ldmatrix(r, 4, true, shared_row, where);
}
inline void ldmatrix_x2(uint32_t (&r)[2], const void* shared_row, EMULATION_WHERE) {
  emulation::ldmatrix(r, 2, false, shared_row, where);
}
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* shared_row, EMULATION_WHERE) {
  emulation::ldmatrix(r, 2, true, shared_row, where);
}

}  // namespace gdext::cuda::ptx
