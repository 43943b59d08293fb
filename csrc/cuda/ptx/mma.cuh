// Products of small matrices by a warp: D = A B + C, and loading their fragments.
//
// A is [M,K], B is [K,N], C and D are [M,N]. A lane holds, with g = lane / 4 and t = lane % 4
// (PTX ISA, "Matrix Fragments for mma.m16n8k8", "... mma.m16n8k16 with floating point type" and
// "... mma.m8n8k4 with .f64"):
//
//   m16n8k8, f16      A: (g, 2t) (g+8, 2t)    B: (2t, g)
//   m16n8k8, tf32     A: (g, t) (g+8, t) (g, t+4) (g+8, t+4)        B: (t, g) (t+4, g)
//   m16n8k16, 16 bits A: (g, 2t) (g+8, 2t) (g, 2t+8) (g+8, 2t+8)    B: (2t, g) (2t+8, g)
//   of 16 bits        each with its neighbour along k in the upper half of the register
//   all three         C, D: (g, 2t) (g, 2t+1) (g+8, 2t) (g+8, 2t+1), float32
//   m8n8k4, f64       A: (g, t)    B: (t, g)    C, D: (g, 2t) (g, 2t+1)
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/ptx/shared.cuh"

namespace gdext::cuda::ptx {

// `value` rounded to tf32 (10 bits of mantissa), to nearest, ties away from zero. mma takes any
// float32 and ignores the low 13 bits: without this it rounds towards zero. sm_80.
__device__ inline uint32_t to_tf32(float value) {
  uint32_t result = 0;
#if __CUDA_ARCH__ >= 800
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(result) : "f"(value));
#else
  (void)value;
  __trap();
#endif
  return result;
}

// sm_80.
__device__ inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4],
                                        const uint32_t (&b)[2], const float (&c)[4]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%10,%11,%12,%13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]),
        "f"(c[2]), "f"(c[3]));
#else
  (void)d, (void)a, (void)b, (void)c;
  __trap();
#endif
}

// sm_80.
__device__ inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2], const float (&c)[4]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%10,%11,%12,%13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]),
        "f"(c[2]), "f"(c[3]));
#else
  (void)d, (void)a, (void)b, (void)c;
  __trap();
#endif
}

// sm_75.
__device__ inline void mma_m16n8k8_f16(float (&d)[4], const uint32_t (&a)[2], uint32_t b,
                                       const float (&c)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
      "{%7,%8,%9,%10};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(b), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

// sm_80.
__device__ inline void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4],
                                        const uint32_t (&b)[2], const float (&c)[4]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%10,%11,%12,%13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]),
        "f"(c[2]), "f"(c[3]));
#else
  (void)d, (void)a, (void)b, (void)c;
  __trap();
#endif
}

// sm_80.
__device__ inline void mma_m8n8k4_f64(double (&d)[2], double a, double b, const double (&c)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%4,%5};"
               : "=d"(d[0]), "=d"(d[1])
               : "d"(a), "d"(b), "d"(c[0]), "d"(c[1]));
#else
  (void)d, (void)a, (void)b, (void)c;
  __trap();
#endif
}

// Four matrices of 8 x 8 16-bit elements. Lane 8 m + r names row r of matrix m, 16 bytes aligned to
// 16; register m of a lane gets the elements (g, 2t) and (g, 2t+1) of matrix m, or of its
// transpose: (2t, g) and (2t+1, g). PTX ISA, "ldmatrix". sm_75.
__device__ inline void ldmatrix_x4(uint32_t (&r)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row))
               : "memory");
}
__device__ inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row))
               : "memory");
}
// Two matrices: lanes 0 to 15 name the rows.
__device__ inline void ldmatrix_x2(uint32_t (&r)[2], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(shared_row))
               : "memory");
}
__device__ inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(shared_row))
               : "memory");
}

}  // namespace gdext::cuda::ptx
