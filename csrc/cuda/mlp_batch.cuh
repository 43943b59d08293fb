// What a step of the whole network reads: its samples, their inputs and targets, and the loss of
// one of them (contract/mlp.h).
#pragma once
#include "contract/mlp.h"
#include "cuda/formulas.cuh"
#include "cuda/reduce.cuh"

namespace gdext::cuda {

template <class T>
struct MlpBatches {
  using A = acc_t<T>;
  const void* inputs;
  int64_t row_stride;
  bool bytes;
  A scale, shift;
  const int64_t* order;
  int64_t B;

  explicit MlpBatches(const MlpArgs& args)
      : inputs(args.inputs),
        row_stride(args.input_row_stride),
        bytes(args.input_bytes),
        scale(static_cast<A>(args.input_scale)),
        shift(static_cast<A>(args.input_shift)),
        order(args.order),
        B(args.B) {}

  // The number of the input that is sample b of a step's batch.
  __device__ int64_t sample(int64_t step, int64_t b) const {
    const int64_t at = step * B + b;
    return order ? order[at] : at;
  }
  __device__ T from_byte(uint8_t byte) const { return T(scale * static_cast<A>(byte) + shift); }
  __device__ T input(int64_t sample, int64_t i) const {
    const int64_t at = sample * row_stride + i;
    return bytes ? from_byte(static_cast<const uint8_t*>(inputs)[at])
                 : static_cast<const T*>(inputs)[at];
  }
};

template <class T>
struct MlpTargets {
  using A = acc_t<T>;
  MlpLoss loss;
  bool mean;
  int64_t C;
  const void* targets;
  const T* w;  // [C] or null
  int64_t ignore_index;
  A label_smoothing;
  const double* norms;  // [steps] or null

  explicit MlpTargets(const MlpArgs& args)
      : loss(args.loss),
        mean(args.reduction == Reduction::mean),
        C(args.layers[args.L - 1].O),
        targets(args.targets),
        w(static_cast<const T*>(args.class_weight)),
        ignore_index(args.ignore_index),
        label_smoothing(static_cast<A>(args.label_smoothing)),
        norms(args.norms) {}

  __device__ int64_t class_of(int64_t sample) const {
    return static_cast<const int64_t*>(targets)[sample];
  }
  __device__ const T* row_of(int64_t sample) const {
    return static_cast<const T*>(targets) + sample * C;
  }
  __device__ A weight(int64_t c) const { return w ? static_cast<A>(w[c]) : A(1); }

  // What a sample of class t adds to the norm of a mean of cross entropies.
  __device__ double counts(int64_t t) const {
    return t == ignore_index ? 0.0 : static_cast<double>(weight(t));
  }
  // Whether the norm is a sum of those, and not known without the batch's targets.
  bool norm_is_a_sum() const { return mean && loss == MlpLoss::cross_entropy && !norms; }
  // The norm where it is not such a sum.
  __device__ double known_norm(int64_t step, int64_t count) const {
    if (norms) return norms[step];
    return mean ? static_cast<double>(count * C) : 1.0;
  }
};

// The loss of one sample of class t, by a warp: y(c) is output c, store(c, dC/dy[c]) takes the
// gradient, g = 1 / norm. Returns the sample's part of the sum of losses, on each lane.
template <class T, class Outputs, class Store>
__device__ double cross_entropy_sample(const MlpTargets<T>& of, int64_t t, acc_t<T> g,
                                       const Outputs& y, const Store& store) {
  using A = acc_t<T>;
  const int lane = threadIdx.x % kWarp;
  const int64_t C = of.C;
  if (t == of.ignore_index) {
    for (int64_t c = lane; c < C; c += kWarp) store(c, A(0));
    return 0;
  }
  A m = -INFINITY;
  for (int64_t c = lane; c < C; c += kWarp) m = Max{}(m, y(c));
  m = warp_reduce(m, Max{});
  double ties = 0, rest = 0;
  for (int64_t c = lane; c < C; c += kWarp) {
    if (y(c) == m)
      ++ties;
    else
      rest += static_cast<double>(exp(y(c) - m));
  }
  ties = warp_reduce(ties, Sum{});
  rest = warp_reduce(rest, Sum{});
  const A l = static_cast<A>(log_sum_exp(static_cast<double>(m), ties, rest));
  const A classes = static_cast<A>(C);
  // Without smoothing no other class's weight counts, though it be infinite.
  const bool one_hot = of.label_smoothing == A(0);
  const auto q = [&](int64_t c) {
    if (one_hot && c != t) return A(0);
    return smoothed_target(A(c == t), of.weight(c), of.label_smoothing, classes);
  };
  double loss = 0, a = 0;
  for (int64_t c = lane; c < C; c += kWarp) {
    const A qc = q(c);
    a += static_cast<double>(qc);
    if (qc != A(0)) loss -= static_cast<double>(qc * log_probability(y(c), m, l));
  }
  loss = warp_reduce(loss, Sum{});
  const A sum_q = static_cast<A>(warp_reduce(a, Sum{}));
  for (int64_t c = lane; c < C; c += kWarp)
    store(c, g * (sum_q * exp(log_probability(y(c), m, l)) - q(c)));
  return loss;
}

// The same for squared errors from a row of targets.
template <class T, class Outputs, class Store>
__device__ double mse_sample(const MlpTargets<T>& of, const T* t, acc_t<T> g, const Outputs& y,
                             const Store& store) {
  using A = acc_t<T>;
  double loss = 0;
  for (int64_t c = threadIdx.x % kWarp; c < of.C; c += kWarp) {
    const A target = static_cast<A>(t[c]);
    loss += static_cast<double>(squared_error(y(c), target, A(1)));
    store(c, squared_error_dx(y(c), target, A(1), g));
  }
  return warp_reduce(loss, Sum{});
}

}  // namespace gdext::cuda
