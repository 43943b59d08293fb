// The kernels and epilogues of a step of the whole network in its general form (mlp_layers.cu).
#pragma once
#include "common/sgd_rule.h"
#include "cuda/activations.cuh"
#include "cuda/gemm.cuh"
#include "cuda/mlp_batch.cuh"

namespace gdext::cuda {

// The number of the step, on the device, so that a graph of a step serves all of them. The first
// kernels of a step read `next`; the kernel of the loss makes it `now` for those after it, and the
// last one counts on. No kernel reads the one that it writes.
struct MlpClock {
  int64_t next, now;
  double norm;  // of the step's loss, where it is a sum over the batch
};

// A parameter as the end of a step finds it: its gradient goes into an update, or to memory.
template <class T>
struct MlpUpdate {
  using A = acc_t<T>;
  T *p, *m;
  int64_t p_row, p_col, m_row, m_col;
  bool first;
  int group;
  A* gradient;         // [O,I] or null
  SgdRule<A> rule;     // but for lr
  const double* rate;  // [groups] of this step
  const MlpClock* clock;

  MlpUpdate(const MlpParameter& from, const MlpGroup& options, const double* rates,
            const MlpClock* clock)
      : p(static_cast<T*>(from.data)),
        m(options.momentum != 0 ? static_cast<T*>(from.momentum) : nullptr),
        p_row(from.row_stride),
        p_col(from.col_stride),
        m_row(from.momentum_row_stride),
        m_col(from.momentum_col_stride),
        first(from.first),
        group(from.group),
        gradient(static_cast<A*>(from.gradient)),
        rule(0, options.momentum, options.dampening, options.weight_decay, options.nesterov,
             options.maximize),
        rate(rates),
        clock(clock) {}

  // For the gradient of element (o, i) of [O,I], in two halves (gemm_rows.cuh).
  struct Read {
    T value, momentum;
    double lr;
    bool first_now;
  };
  __device__ Read read(int64_t o, int64_t i) const {
    if (gradient) return {};
    const bool first_now = first && clock->now == 0;
    return {p[o * p_row + i * p_col], m && !first_now ? m[o * m_row + i * m_col] : T{}, rate[group],
            first_now};
  }
  __device__ void finish(int64_t o, int64_t i, int64_t I, A d, Read read) const {
    if (gradient) {
      gradient[o * I + i] = d;
      return;
    }
    SgdRule<A> now = rule;
    now.lr = static_cast<A>(read.lr);
    A value = static_cast<A>(read.value), momentum = static_cast<A>(read.momentum);
    now(value, static_cast<A>(T(d)), momentum, read.first_now);
    p[o * p_row + i * p_col] = T(value);
    if (m) m[o * m_row + i * m_col] = T(momentum);
  }
  __device__ void operator()(int64_t o, int64_t i, int64_t I, A d) const {
    finish(o, i, I, d, read(o, i));
  }
};

// z = sum + b,  h = f(z)
template <class T>
struct MlpForward {
  const T* b;  // [O] or null
  int64_t b_stride;
  T* h;  // [B,O]
  T* z;  // [B,O] or null
  int64_t O;
  Activation activation;

  __device__ T read(int64_t, int64_t o) const { return b ? b[o * b_stride] : T{}; }
  __device__ void finish(int64_t n, int64_t o, acc_t<T> sum, T bias) const {
    if (b) sum += static_cast<acc_t<T>>(bias);
    if (z) z[n * O + o] = T(sum);
    h[n * O + o] = T(activate(activation, sum));
  }
  __device__ void operator()(int64_t n, int64_t o, acc_t<T> sum) const {
    finish(n, o, sum, read(n, o));
  }
};

// dz = dh f'(s) of the layer below, from dh = sum
template <class T>
struct MlpBackward {
  const T* s;  // [B,I]
  T* dz;       // [B,I]
  int64_t I;
  Activation activation;

  using A = acc_t<T>;
  __device__ T read(int64_t n, int64_t i) const { return s[n * I + i]; }
  __device__ void finish(int64_t n, int64_t i, A sum, T output) const {
    dz[n * I + i] =
        T(activation_backward(activation, static_cast<A>(T(sum)), static_cast<A>(output)));
  }
  __device__ void operator()(int64_t n, int64_t i, A sum) const { finish(n, i, sum, read(n, i)); }
};

// dw = sum
template <class T>
struct MlpWeightUpdate {
  MlpUpdate<T> update;
  int64_t I;

  using Read = typename MlpUpdate<T>::Read;
  __device__ Read read(int64_t o, int64_t i) const { return update.read(o, i); }
  __device__ void finish(int64_t o, int64_t i, acc_t<T> sum, Read read) const {
    update.finish(o, i, I, sum, read);
  }
  __device__ void operator()(int64_t o, int64_t i, acc_t<T> sum) const { update(o, i, I, sum); }
};

// x[b,:] = the inputs of sample b; one more block adds up the norm, where there is one to add up.
constexpr int kGatherPerBlock = 4 * kThreads;
inline int64_t gather_blocks(int64_t count, int64_t I) {
  return count * ceil_div(I, kGatherPerBlock);
}
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    mlp_gather_kernel(const MlpBatches<T> batches, int64_t count, int64_t I, T* x,
                      const MlpTargets<T> targets, MlpClock* clock) {
  const int64_t step = clock->next, pieces = ceil_div(I, kGatherPerBlock);
  const int64_t b = blockIdx.x / pieces, first = blockIdx.x % pieces * kGatherPerBlock;
  if (b == count) {
    double sum = 0;
    for (int64_t other = threadIdx.x; other < count; other += kThreads)
      sum += targets.counts(targets.class_of(batches.sample(step, other)));
    sum = block_reduce(sum, Sum{});
    if (threadIdx.x == 0) clock->norm = sum;
    return;
  }
  const int64_t sample = batches.sample(step, b);
#pragma unroll
  for (int part = 0; part < kGatherPerBlock; part += kThreads) {
    const int64_t i = first + part + threadIdx.x;
    if (i < I) x[b * I + i] = batches.input(sample, i);
  }
}

// The sum of the losses, in a partial sum for each block, and dz of the last layer. A warp takes a
// sample at a time.
template <class T>
struct MlpLossStep {
  using A = acc_t<T>;
  MlpBatches<T> batches;
  MlpTargets<T> targets;
  int64_t count;
  bool norm_is_a_sum;
  const T *h, *s;  // [B,C] outputs of the last layer, and what its activation has saved
  T* dz;           // [B,C]
  Activation activation;
  double* partials;
  MlpClock* clock;
  const double* lr;  // [steps, groups], or null: the groups' own, which are in `rate`
  double* rate;      // [groups]
  int64_t groups;
};

template <class T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    mlp_loss_kernel(const __grid_constant__ MlpLossStep<T> in) {
  using A = acc_t<T>;
  constexpr int kWarps = kThreads / kWarp;
  const int64_t step = in.clock->next, C = in.targets.C;
  if (blockIdx.x == 0) {
    if (threadIdx.x == 0) in.clock->now = step;
    if (in.lr)
      for (int64_t g = threadIdx.x; g < in.groups; g += kThreads)
        in.rate[g] = in.lr[step * in.groups + g];
  }
  const double norm = in.norm_is_a_sum ? in.clock->norm : in.targets.known_norm(step, in.count);
  const A g = static_cast<A>(1 / norm);
  double sum = 0;
  for (int64_t b = blockIdx.x * static_cast<int64_t>(kWarps) + threadIdx.x / kWarp; b < in.count;
       b += static_cast<int64_t>(gridDim.x) * kWarps) {
    const int64_t sample = in.batches.sample(step, b);
    const T* h = in.h + b * C;
    const auto output = [&](int64_t c) { return static_cast<A>(h[c]); };
    const auto store = [&](int64_t c, A dh) {
      in.dz[b * C + c] = T(activation_backward(in.activation, static_cast<A>(T(dh)),
                                               static_cast<A>(in.s[b * C + c])));
    };
    const double loss =
        in.targets.loss == MlpLoss::mse
            ? mse_sample(in.targets, in.targets.row_of(sample), g, output, store)
            : cross_entropy_sample(in.targets, in.targets.class_of(sample), g, output, store);
    if (threadIdx.x % kWarp == 0) sum += loss;
  }
  store_partial(in.partials, sum);
}

// The end of a step: db[l] = sum_b dz[l] and the update of the biases, a block for kWarp units of a
// layer; and one block that adds up the loss and counts the step.
template <class T>
struct MlpBias {
  const T* dz;  // [B,O]
  int64_t O;
  int64_t blocks_before;  // those of the biases before this one
  MlpUpdate<T> update;
};
// A list of them that fits a kernel's parameters; a network of more layers has several.
template <class T>
struct MlpBiases {
  static constexpr int kMost = 16;
  // Without constructors, so that the whole is plain bytes.
  alignas(MlpBias<T>) unsigned char memory[kMost * sizeof(MlpBias<T>)];
  int count = 0;
  int64_t blocks = 0;

  GDEXT_HD const MlpBias<T>& operator[](int i) const {
    return reinterpret_cast<const MlpBias<T>*>(memory)[i];
  }
  void add(const MlpBias<T>& bias) {
    reinterpret_cast<MlpBias<T>*>(memory)[count++] = bias;
    blocks += ceil_div(bias.O, kWarp);
  }
};
static_assert(sizeof(MlpBiases<double>) < 4000);

struct MlpStepEnd {
  const double* partials;
  int64_t partial_count;
  bool norm_is_a_sum, mean;
  const double* norms;
  double known_norm;
  MlpClock* clock;
  double* losses;  // null: the step goes on
};

template <class T>
__global__ void __launch_bounds__(kSumThreads)
    mlp_end_kernel(const __grid_constant__ MlpBiases<T> biases, int64_t count, MlpStepEnd end) {
  const int lane = threadIdx.x % kWarp;
  if (blockIdx.x == biases.blocks) {
    if (threadIdx.x >= kWarp) return;
    double sum = 0;
    for (int64_t i = lane; i < end.partial_count; i += kWarp) sum += end.partials[i];
    sum = warp_reduce(sum, Sum{});
    if (lane != 0) return;
    const int64_t now = end.clock->now;
    const double norm = end.norm_is_a_sum ? end.clock->norm
                        : end.norms       ? end.norms[now]
                                          : end.known_norm;
    end.losses[now] = sum / norm;
    end.clock->next = now + 1;
    return;
  }
  int which = 0;
  while (which + 1 < biases.count && biases[which + 1].blocks_before <= blockIdx.x) ++which;
  const MlpBias<T>& bias = biases[which];
  const int64_t o = (blockIdx.x - bias.blocks_before) * kWarp + lane;
  const acc_t<T> db = sum_of_column(bias.dz + o, bias.O, o < bias.O ? count : 0);
  if (threadIdx.x < kWarp && o < bias.O) bias.update(o, 0, 1, db);
}

}  // namespace gdext::cuda
