// mlp: many SGD steps of a whole multi-layer perceptron in one call. For each step, with the batch
// x = inputs[order[n]], t = targets[order[n]] of the next B (the last step: B or fewer) samples,
//
//   h[0] = x
//   z[l] = h[l-1] w[l]^T + b[l],  h[l] = f[l](z[l])       for l = 1..L (contract/linear.h)
//   C = cross_entropy(h[L], t) or mse(h[L], t)            by mean or sum (cross_entropy.h, mse.h)
//   dz[l] = dh[l] * f'[l],  dh[l-1] = dz[l] w[l]          for l = L..1
//   dw[l] = dz[l]^T h[l-1],  db[l] = sum_b dz[l]
//   w[l], b[l] <- the rule of contract/sgd.h
//
// dw is never stored: the update is the epilogue of the product. h, dh, dw, db and the updated
// parameters are rounded to `dtype`, where the layer-by-layer kernels round them; on CUDA dz too.
//
// Where processes share a batch, dw and db are wanted before the update, and of more samples than
// are here: then a call takes one step without its update and stores them (MlpParameter::gradient),
// divided by the norm of the whole batch (`norms`).
//
// Same inputs, same number of threads: same bits. Where an input column is zero in every sample of
// the batch, or a relu unit is, its products are skipped: a weight that is infinite or NaN there
// goes unnoticed.
//
// The kernel works on a packed copy of the parameters and momenta (`packed`, in an order of its
// own, acc_t of dtype) and writes them back before it returns, so that a caller between two calls
// sees all parameters after the same step.
//
// On CUDA all that args point to is on the device but for `layers` and `groups`, and a call returns
// when its steps are in the stream, not when they are done. Samples and classes are out of their
// ranges where mlp_check says so; nothing else may be called then. Parameters of dtype may be
// worked on where they lie.
#pragma once
#include "contract/common.h"

namespace gdext {

// A parameter and its momentum. A bias is a matrix of one column, [O,1].
struct MlpParameter {
  void* data = nullptr;  // [O,I] updated
  int64_t row_stride = 0, col_stride = 0;
  void* momentum = nullptr;  // [O,I] updated; null if the group's momentum is 0
  int64_t momentum_row_stride = 0, momentum_col_stride = 0;
  bool first = false;  // the momentum holds nothing yet
  int group = 0;
  // [O,I] row by row, of acc_t of dtype, not rounded; overwritten. For all parameters or none: then
  // nothing is updated, and a call takes a single step.
  void* gradient = nullptr;
};

struct MlpLayer {
  int64_t I, O;
  Activation activation;
  MlpParameter w;  // [O,I]
  MlpParameter b;  // [O,1]; data null: no bias
};

// The options of one parameter group (contract/sgd.h).
struct MlpGroup {
  double momentum, dampening, weight_decay;
  bool nesterov, maximize;
  double lr = 0;  // cuda: read where MlpArgs::lr is null
};

enum class MlpLoss : int { cross_entropy = 0, mse = 1 };

// How the CUDA backend takes its steps: several kernels for each; or one for many, whose blocks, of
// a cluster or of a whole grid, keep the parameters in their shared memory.
enum class MlpForm : int { best, layers, cluster, grid };

struct MlpArgs {
  DType dtype;  // of parameters, momenta, inputs (unless bytes), mse targets and class weights
  const MlpLayer* layers;  // [L]
  int64_t L;
  const MlpGroup* groups;  // [group_count]
  int64_t group_count;

  const void* inputs;  // [N,I] row by row, of dtype, or uint8 where input_bytes
  int64_t input_row_stride;
  bool input_bytes;  // x = input_scale * inputs + input_shift; else inputs as they are
  double input_scale, input_shift;
  const void* targets;   // cross_entropy: int64 [N]; mse: [N,O of layer L] of dtype, contiguous
  const int64_t* order;  // [samples], each in [0, N); null: 0, 1, 2, ...
  int64_t samples;       // in all steps; steps = ceil(samples / B)
  int64_t B;
  const double* lr;  // [steps, group_count]; not read where there are gradients; cuda: may be null

  MlpLoss loss;
  Reduction reduction;       // mean or sum
  const void* class_weight;  // cross_entropy: [C] of dtype, or null: ones
  int64_t ignore_index;      // cross_entropy
  double label_smoothing;    // cross_entropy
  const double* norms;       // [steps] what the sums of losses are divided by; null: as `reduction`
                             // says, for the batch

  int threads;     // cpu: at most; the result depends on it, in its last bits
  void* packed;    // MlpSizes::packed bytes
  void* scratch;   // MlpSizes::scratch bytes
  double seconds;  // stop after the first step (cuda: chunk of steps) that ends, or is launched,
                   // later than this after the call
  double* losses;  // [steps] C of each step, before its update; out

  MlpForm form = MlpForm::best;  // cuda; tests choose another, and the number of blocks
  int blocks = 0;
};

struct MlpSizes {
  int64_t packed, scratch;  // bytes; both buffers are aligned to 64
};

namespace cpu {
MlpSizes mlp_sizes(const MlpArgs&);    // reads dtype, layers, groups, B, loss, threads and
                                       // whether there is an order
int64_t mlp(const MlpArgs&, Context);  // the number of steps done; throws before it writes anything
}  // namespace cpu

// The first place in the order where a sample, or the sample's class, is out of its range.
struct MlpFault {
  int64_t position;  // MlpArgs::samples: there is none
  int64_t sample, target;
  bool of_order;
};

namespace cuda {
constexpr int64_t kMlpCheckBytes = 8192;
MlpSizes mlp_sizes(const MlpArgs&);  // of a call with these args; inputs, targets, losses, order,
                                     // lr, samples and seconds may be others by then
// The number of steps launched, fewer than all where `seconds` are over or an error came after the
// first chunk; throws where it came before. After an error a step may have been taken in part.
int64_t mlp(const MlpArgs&, Context);
// For N inputs; memory: kMlpCheckBytes on the device. Waits for the stream, unless it is being
// captured: then a fault stops the kernel when the graph is run. Nothing is to be checked, or
// waited for, without order and classes.
MlpFault mlp_check(const MlpArgs&, int64_t N, void* memory, Context);
}  // namespace cuda

}  // namespace gdext
