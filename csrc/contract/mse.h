// mse: loss[i] = w[i] (x[i] - t[i])^2, then
//   none  C[i] = loss[i]
//   sum   C = sum_i loss[i]
//   mean  C = sum_i loss[i] / norm,  norm = n, or sum_i w[i] where there are weights
// With norm = 1 for none and sum, and dy the gradient of C ([n] for none, else one number):
//   dx[i] = dy[i] 2 w[i] (x[i] - t[i]) / norm,    dt = -dx
// Backward of the backward, for the cotangent u of dx:
//   gdy[i] = u[i] 2 w[i] (x[i] - t[i]) / norm     (summed over i unless none)
//   gx[i]  = u[i] 2 w[i] dy[i] / norm,            gt = -gx
//
// All tensors are contiguous, of `dtype`; norm is of its accumulation type (acc_t: float64 for f64,
// else float32). Sums are taken in float64. n may be 0: the sum is 0, the mean NaN (0/0).
#pragma once
#include "contract/common.h"

namespace gdext {

struct MseArgs {
  DType dtype;
  Reduction reduction;
  int64_t n;
  const void* x;      // [n]
  const void* t;      // [n]
  const void* w;      // [n] or null: all ones
  void* loss;         // [n] for none, else [1]; out
  void* norm;         // [1] acc; out
  double* workspace;  // [kWorkspace]
};

struct MseBackwardArgs {
  DType dtype;
  int64_t n;
  const void* dy;
  int64_t dy_stride;  // 1: dy is [n]; 0: dy is [1]
  const void* x;      // [n]
  const void* t;      // [n]
  const void* w;      // [n] or null
  const void* norm;   // [1] acc
  void* dx;           // [n] out
};

struct MseDoubleBackwardArgs {
  DType dtype;
  Reduction reduction;
  int64_t n;
  const void* u;  // [n]
  const void* dy;
  int64_t dy_stride;  // as above
  const void* x;      // [n]
  const void* t;      // [n]
  const void* w;      // [n] or null
  const void* norm;   // [1] acc
  void* gdy;          // [n] for none, else [1]; out
  void* gx;           // [n] out
  double* workspace;  // [kWorkspace]
};

namespace cpu {
void mse(const MseArgs&, Context);
void mse_backward(const MseBackwardArgs&, Context);
void mse_double_backward(const MseDoubleBackwardArgs&, Context);
}  // namespace cpu
namespace cuda {
void mse(const MseArgs&, Context);
void mse_backward(const MseBackwardArgs&, Context);
void mse_double_backward(const MseDoubleBackwardArgs&, Context);
}  // namespace cuda

}  // namespace gdext
