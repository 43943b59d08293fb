// linear: z = x w^T + b,  y = f(z)
//
// Backward, for dy = dC/dy:
//   dz = dy * f'(z)      (elementwise)
//   dx = dz w            dC/dx[b,i] = sum_o dz[b,o] w[o,i]
//   dw = dz^T x          dC/dw[o,i] = sum_b dz[b,o] x[b,i]
//   db = sum_b dz[b,:]
//
// Backward of the backward, for the cotangents u of dx, v of dw and r of db: with
//   S = <u, dz w> + <v, dz^T x> + <r, sum_b dz>   and   q = dS/d(dz) = u w^T + x v^T + r
// the three elementwise products that the rest is made of (see gdext/_autograd/linear.py):
//   gdy = q f'(z)        dS/d(dy)
//   gz  = q dy f''(z)    dS/dz, through f'
//   dz  = dy f'(z)       the first backward's dz once more
//
// Letters: B batch, I in_features, O out_features. 16-bit types accumulate in float32 and are
// rounded once, when stored. On the CPU dz, which is not stored, stays in float32 unless it is
// exact in 16 bits; on CUDA it is rounded to 16 bits, as PyTorch rounds it, for tensor cores to
// multiply. On processors with AVX512-BF16 products of two bfloat16 take subnormal numbers for
// zero. Every output is overwritten. Sizes may be 0: an empty sum is 0.
#pragma once
#include "contract/common.h"

namespace gdext {

struct LinearArgs {
  DType dtype;
  Activation activation;
  int64_t B, I, O;
  Matrix x;       // [B,I]
  Matrix w;       // [O,I]
  const void* b;  // [O] contiguous, or null
  void* y;        // [B,O] contiguous, out
  void* z;        // [B,O] contiguous, out; null if not wanted
};

struct LinearBackwardArgs {
  DType dtype;
  Activation activation;
  int64_t B, I, O;
  Matrix dy;  // [B,O]
  Matrix s;   // [B,O] what the activation saved (saves_z); data null for identity
  Matrix x;   // [B,I] read for dw only
  Matrix w;   // [O,I] read for dx only
  void* dz;   // [B,O] contiguous, of dz_t, workspace; null for identity, where dz is dy
  void* dx;   // [B,I] contiguous, out; null if not wanted
  void* dw;   // [O,I] contiguous, out; null if not wanted
  void* db;   // [O] out; null if not wanted
};

struct ActivationDoubleBackwardArgs {
  DType dtype;
  Activation activation;
  int64_t n;       // B * O
  const void* q;   // [n]
  const void* dy;  // [n]
  const void* s;   // [n]
  void* gdy;       // [n] out
  void* gz;        // [n] out
  void* dz;        // [n] out
};

// dz's elements.
namespace cpu {
template <class T>
using dz_t = acc_t<T>;
}
namespace cuda {
template <class T>
using dz_t = T;
}

namespace cpu {
void linear(const LinearArgs&, Context);
void linear_backward(const LinearBackwardArgs&, Context);
void activation_double_backward(const ActivationDoubleBackwardArgs&, Context);
}  // namespace cpu
namespace cuda {
void linear(const LinearArgs&, Context);
void linear_backward(const LinearBackwardArgs&, Context);
void activation_double_backward(const ActivationDoubleBackwardArgs&, Context);
}  // namespace cuda

}  // namespace gdext
