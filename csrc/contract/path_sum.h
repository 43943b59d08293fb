// path_sum: the gradient of a multi-layer perceptron (contract/mlp.h: z[l] = a[l-1] w[l]^T + b[l],
// a[l] = f[l](z[l])) by the chain rule, written out and computed term by term: the sum, over every
// path from a weight to the cost, of the product of all derivatives along it,
//
//   dw[l][i,j] = sum over samples b and units k[l] = i, k[l+1], ..., k[L] of
//     dy[b,k[L]] s[L][b,k[L]] w[L][k[L],k[L-1]] ... w[l+1][k[l+1],k[l]] s[l][b,i] a[l-1][b,j]
//   db[l][i]   = the same without a
//
// with the slopes s[l] = f'[l](z[l]) and dy = dC/da[L]. No product, and no part of one, is used for
// a second path. A layer's parameter has O[l+1] ... O[L] paths: their number grows exponentially
// with L, by a factor of the width with each layer.
//
// An instrument that shows what backpropagation saves, not a way to train: there is a CPU backend
// alone, for float64, on one thread. A call stops after about `seconds`; the next one goes on where
// `walked` says. The order of the sum is that of samples within paths within parameters, however
// many calls it takes: same inputs, same bits.
#pragma once
#include "contract/common.h"

namespace gdext {

// All matrices are contiguous.
struct PathSumLayer {
  int64_t I, O;
  const double* w;  // [O,I]
  const double* a;  // [B,I] what the layer was given: a[l-1]
  const double* s;  // [B,O] f'(z), or null: 1, as for a layer without an activation
  double* dw;       // [O,I] accumulated into
  double* db;       // [O] accumulated into; null: no bias
};

struct PathSumArgs {
  const PathSumLayer* layers;  // [L]
  int64_t L;
  int64_t B;
  const double* dy;          // [B,O of layer L]
  double seconds;            // stop at the first look at the clock that is later than this
  int64_t* walked;           // [1] paths that are done, each for all samples; accumulated into
  int64_t* multiplications;  // [1] accumulated into
};

namespace cpu {
void path_sum(const PathSumArgs&, Context);
}

}  // namespace gdext
