// cross_entropy: for each of the N*D samples (n, d), with logits x[c] = x[n,c,d],
//   m = max_c x[c],  l = log sum_c exp(x[c] - m),  log p[c] = (x[c] - m) - l
//   loss = -sum_c q[c] log p[c]
// where q is the weighted, smoothed target distribution (e = label_smoothing):
//   class index t:         q[c] = w[c] ((1 - e) [c == t] + e / C);  q = 0 where t == ignore_index
//   class probabilities t: q[c] = w[c] ((1 - e) t[c] + e / C)
// and then
//   none  C = loss            sum  C = sum loss
//   mean  C = sum loss / norm,  norm = sum of w[t] over the samples not ignored (class index),
//                               N*D (class probabilities)
// m and l are kept apart because m + l would lose l's digits where logits are large (1e4).
//
// Backward, with a = sum_c q[c], norm = 1 unless mean, and g = dy / norm of the sample:
//   dx[c] = g (a p[c] - q[c])
//   dt[c] = g w[c] (1 - e) (-log p[c])                         (class probabilities only)
// Backward of the backward, for the cotangents u of dx and v of dt, k[c] = w[c] (1 - e) v[c]:
//   h   = sum_c u[c] (a p[c] - q[c]) - sum_c k[c] log p[c]
//   gdy = h / norm                                             (summed over samples unless none)
//   gx[c] = g (a p[c] (u[c] - r) + p[c] sum k - k[c]),  r = sum_c u[c] p[c]
//   gt[c] = g w[c] (1 - e) (r - u[c])                          (class probabilities only)
// Source: PyTorch's documentation of CrossEntropyLoss, whose results these are.
//
// Letters: N outer batch, C classes, D inner positions (1 for the usual [B,C] logits). All tensors
// are contiguous and of `dtype`, but index (int64), stats and norm (acc_t of dtype). Every output
// is overwritten.
#pragma once
#include "contract/common.h"

namespace gdext {

// The part that forward, backward and its backward share.
struct CrossEntropyTarget {
  const int64_t* index;    // [N,D], or null where prob is given
  const void* prob;        // [N,C,D], or null where index is given
  const void* w;           // [C], or null: all ones
  int64_t ignore_index;    // class index only
  double label_smoothing;  // e, in [0, 1]
};

struct CrossEntropyArgs {
  DType dtype;
  Reduction reduction;
  int64_t N, C, D;
  const void* x;  // [N,C,D]
  CrossEntropyTarget target;
  void* loss;         // [N,D] for none, else [1]; out
  void* stats;        // [2,N,D] acc: m, l; out
  void* norm;         // [1] acc; out
  double* workspace;  // [kWorkspace]
};

struct CrossEntropyBackwardArgs {
  DType dtype;
  int64_t N, C, D;
  const void* dy;
  int64_t dy_stride;  // 1: dy is [N,D]; 0: dy is [1]
  const void* x;      // [N,C,D]
  CrossEntropyTarget target;
  const void* stats;  // [2,N,D] acc
  const void* norm;   // [1] acc
  void* dx;           // [N,C,D] out; null if not wanted
  void* dt;           // [N,C,D] out; null if not wanted
};

struct CrossEntropyDoubleBackwardArgs {
  DType dtype;
  Reduction reduction;
  int64_t N, C, D;
  const void* u;  // [N,C,D], or null: zeros
  const void* v;  // [N,C,D], or null: zeros
  const void* dy;
  int64_t dy_stride;
  const void* x;  // [N,C,D]
  CrossEntropyTarget target;
  const void* stats;  // [2,N,D] acc
  const void* norm;   // [1] acc
  void* gdy;          // [N,D] for none, else [1]; out
  void* gx;           // [N,C,D] out
  void* gt;           // [N,C,D] out; null if not wanted
  double* workspace;  // [kWorkspace]
};

// A class index outside [0, C) that is not ignore_index: the CPU backend throws std::out_of_range
// before it writes anything; the CUDA backend, which learns of it after the launch, prints the
// index and traps, as PyTorch's kernel does.
namespace cpu {
void cross_entropy(const CrossEntropyArgs&, Context);
void cross_entropy_backward(const CrossEntropyBackwardArgs&, Context);
void cross_entropy_double_backward(const CrossEntropyDoubleBackwardArgs&, Context);
}  // namespace cpu
namespace cuda {
void cross_entropy(const CrossEntropyArgs&, Context);
void cross_entropy_backward(const CrossEntropyBackwardArgs&, Context);
void cross_entropy_double_backward(const CrossEntropyDoubleBackwardArgs&, Context);
}  // namespace cuda

}  // namespace gdext
