// What mma, ldmatrix and wgmma compute, fragment by fragment.
#pragma once
#include "emulation.h"

namespace emulation {

enum class Element { tf32, bf16, f16 };

// c + the sum of the products, as tensor cores have been measured to add (Fasi, Higham, Mikaitis
// and Pranesh, "Numerical behavior of NVIDIA tensor cores", 2021): all terms are cut off below the
// largest one's last bits, and so is the sum; nothing rounds to nearest.
float tensor_core_sum(float c, const double* products, int count);

uint32_t to_tf32(float value);  // to nearest, ties away from zero

// D of m16n8k8 (tf32) or m16n8k16.
void mma(Element type, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
         const float (&c)[4], Where where);
void mma_f16_k8(float (&d)[4], const uint32_t (&a)[2], uint32_t b, const float (&c)[4],
                Where where);  // D of m16n8k8 (f16)
void mma_f64(double (&d)[2], double a, double b, const double (&c)[2], Where where);
void ldmatrix(uint32_t* registers, int matrices, bool transposed, const void* row, Where where);

struct WgmmaOperand {
  uint64_t descriptor;
  bool mn_major;
};
void wgmma_fence(Where where);
void wgmma_commit(Where where);
void wgmma_wait(size_t groups_left, Where where);
void wgmma(Element type, float* d, int registers, WgmmaOperand a, WgmmaOperand b, bool accumulate,
           Where where);

}  // namespace emulation
