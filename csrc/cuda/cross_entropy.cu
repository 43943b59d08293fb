// cross_entropy on CUDA (contract/cross_entropy.h).
//
// A group of threads shares one sample (n, d) and loops over its classes: a warp; a block where
// there are many classes; a single thread where D is large, so that neighbours in a warp read
// neighbours in memory. Groups take the samples in turn, in a fixed order. Sums over classes are
// taken in float64.
#include <cstdio>
#include <type_traits>

#include "contract/cross_entropy.h"
#include "cuda/formulas.cuh"
#include "cuda/reduce.cuh"

namespace gdext::cuda {
namespace {

// kGroup is 1, kWarp or kThreads. Reductions return the result to every thread of the group, all of
// which must take part; they hold nothing, so that groups of one thread or warp need not keep step.
template <int kGroup>
struct Group {
  static_assert(kGroup == 1 || kGroup == kWarp || kGroup == kThreads);
  static constexpr int kSize = kGroup, kPerBlock = kThreads / kSize;

  __device__ static int64_t first() {
    return static_cast<int64_t>(blockIdx.x) * kPerBlock + threadIdx.x / kSize;
  }
  __device__ static int64_t count() { return static_cast<int64_t>(gridDim.x) * kPerBlock; }
  __device__ static int rank() { return threadIdx.x % kSize; }

  template <class A, class Op>
  __device__ static A reduce(A value, Op op) {
    if constexpr (kSize == kWarp) value = warp_reduce(value, op);
    if constexpr (kSize == kThreads) value = block_reduce(value, op);
    return value;
  }
};

// Calls f(integral_constant<int, group size>).
template <class F>
void with_group_size(int64_t C, int64_t D, F&& f) {
  if (D >= kWarp)
    f(std::integral_constant<int, 1>{});
  else if (C <= 1024)
    f(std::integral_constant<int, kWarp>{});
  else
    f(std::integral_constant<int, kThreads>{});
}

// Sizes and targets, on their way to the kernels.
struct Problem {
  int64_t N, C, D;
  CrossEntropyTarget target;

  __device__ int64_t samples() const { return N * D; }
};

// One sample: where its classes lie and its target distribution q.
template <class T>
class Sample {
 public:
  using A = acc_t<T>;

  // Where the class index is out of range, the group's thread of rank 0 traps.
  __device__ Sample(const Problem& problem, int64_t sample, int rank)
      : begin_(sample / problem.D * problem.C * problem.D + sample % problem.D),
        stride_(problem.D),
        prob_(static_cast<const T*>(problem.target.prob)),
        w_(static_cast<const T*>(problem.target.w)),
        label_smoothing_(static_cast<A>(problem.target.label_smoothing)),
        classes_(static_cast<A>(problem.C)) {
    if (prob_) return;
    index_ = problem.target.index[sample];
    const bool in_range = index_ >= 0 && index_ < problem.C;
    ignored_ = !in_range || index_ == problem.target.ignore_index;
    if (!in_range && index_ != problem.target.ignore_index && rank == 0) {
      printf("Target %lld is out of bounds.\n", static_cast<long long>(index_));
      __trap();
    }
  }

  // Where class c of this sample is in an [N,C,D] tensor.
  __device__ int64_t at(int64_t c) const { return begin_ + c * stride_; }

  __device__ bool ignored() const { return ignored_; }
  __device__ bool has_index() const { return !prob_; }
  __device__ int64_t index() const { return index_; }
  __device__ A weight(int64_t c) const { return w_ ? static_cast<A>(w_[c]) : A(1); }

  // All of q is on one class; the others' terms, 0 times a log p that may be -inf, are to be left
  // out.
  __device__ bool one_hot() const { return !prob_ && label_smoothing_ == A(0); }

  __device__ A q(int64_t c) const {
    if (ignored_ || (one_hot() && c != index_)) return A(0);
    const A hit = prob_ ? static_cast<A>(prob_[at(c)]) : A(c == index_);
    return smoothed_target(hit, weight(c), label_smoothing_, classes_);
  }
  // dq[c] / dt[c]
  __device__ A q_slope(int64_t c) const { return weight(c) * (A(1) - label_smoothing_); }

 private:
  int64_t begin_, stride_;
  const T* prob_;
  const T* w_;
  A label_smoothing_, classes_;
  int64_t index_ = 0;
  bool ignored_ = false;
};

// g = dy / norm. An ignored sample has none, whatever norm is (0 where all are ignored).
template <class T>
__device__ acc_t<T> loss_gradient(const Sample<T>& sample, const T* dy, int64_t at,
                                  const acc_t<T>* norm) {
  return sample.ignored() ? acc_t<T>(0) : static_cast<acc_t<T>>(dy[at]) / *norm;
}

// a = sum_c q[c]
template <class G, class T>
__device__ acc_t<T> sum_q(const Sample<T>& sample, int64_t C) {
  double sum = 0;
  for (int64_t c = G::rank(); c < C; c += G::kSize) sum += sample.q(c);
  return static_cast<acc_t<T>>(G::reduce(sum, Sum{}));
}

template <class T, int kGroup>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    cross_entropy_kernel(Problem problem, const T* x, Reduction reduction, T* loss, acc_t<T>* stats,
                         acc_t<T>* norm, double* partials) {
  using A = acc_t<T>;
  using G = Group<kGroup>;
  const int64_t C = problem.C, samples = problem.samples();
  double loss_sum = 0, weight_sum = 0;
  for (int64_t s = G::first(); s < samples; s += G::count()) {
    const Sample<T> sample(problem, s, G::rank());
    A m = -INFINITY;
    for (int64_t c = G::rank(); c < C; c += G::kSize) m = Max{}(m, static_cast<A>(x[sample.at(c)]));
    m = G::reduce(m, Max{});
    double ties = 0, rest = 0;
    for (int64_t c = G::rank(); c < C; c += G::kSize) {
      const A logit = static_cast<A>(x[sample.at(c)]);
      if (logit == m)
        ++ties;
      else
        rest += std::exp(logit - m);
    }
    ties = G::reduce(ties, Sum{});
    rest = G::reduce(rest, Sum{});
    const A l = static_cast<A>(log_sum_exp<double>(m, ties, rest));

    double value = 0;
    if (sample.one_hot()) {
      const int64_t t = sample.index();
      if (!sample.ignored())
        value = -sample.q(t) * log_probability(static_cast<A>(x[sample.at(t)]), m, l);
    } else if (!sample.ignored()) {
      for (int64_t c = G::rank(); c < C; c += G::kSize)
        value -= sample.q(c) * log_probability(static_cast<A>(x[sample.at(c)]), m, l);
      value = G::reduce(value, Sum{});
    }

    if (G::rank() != 0) continue;
    stats[s] = m;
    stats[samples + s] = l;
    if (reduction == Reduction::none) loss[s] = T(static_cast<A>(value));
    loss_sum += value;
    if (sample.has_index() && !sample.ignored())
      weight_sum += static_cast<double>(sample.weight(sample.index()));
  }
  if (reduction == Reduction::none) {
    if (blockIdx.x == 0 && threadIdx.x == 0) *norm = A(1);
    return;
  }
  store_partial(partials, loss_sum);
  store_partial(partials + kPartials, weight_sum);
}

// dx[c] = g (a p[c] - q[c]),  dt[c] = g w[c] (1 - e) (-log p[c])
template <class T, int kGroup>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    cross_entropy_backward_kernel(Problem problem, const T* dy, int64_t dy_stride, const T* x,
                                  const acc_t<T>* stats, const acc_t<T>* norm, T* dx, T* dt) {
  using A = acc_t<T>;
  using G = Group<kGroup>;
  const int64_t C = problem.C, samples = problem.samples();
  for (int64_t s = G::first(); s < samples; s += G::count()) {
    const Sample<T> sample(problem, s, G::rank());
    const A g = loss_gradient(sample, dy, s * dy_stride, norm);
    const A m = stats[s], l = stats[samples + s];
    const A a = sum_q<G>(sample, C);
    for (int64_t c = G::rank(); c < C; c += G::kSize) {
      const int64_t at = sample.at(c);
      const A log_p = log_probability(static_cast<A>(x[at]), m, l);
      if (dx) dx[at] = T(g * (a * std::exp(log_p) - sample.q(c)));
      if (dt) dt[at] = T(-g * sample.q_slope(c) * log_p);
    }
  }
}

// h   = sum_c u[c] (a p[c] - q[c]) - sum_c k[c] log p[c],  k[c] = w[c] (1 - e) v[c]
// gdy = h / norm
// gx[c] = g (a p[c] (u[c] - r) + p[c] sum k - k[c]),  r = sum_c u[c] p[c]
// gt[c] = g w[c] (1 - e) (r - u[c])
template <class T, int kGroup>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    cross_entropy_double_backward_kernel(Problem problem, const T* u, const T* v, const T* dy,
                                         int64_t dy_stride, const T* x, const acc_t<T>* stats,
                                         const acc_t<T>* norm, Reduction reduction, T* gdy, T* gx,
                                         T* gt, double* partials) {
  using A = acc_t<T>;
  using G = Group<kGroup>;
  const int64_t C = problem.C, samples = problem.samples();
  const auto at_or_zero = [](const T* data, int64_t at) {
    return data ? static_cast<A>(data[at]) : A(0);
  };
  double gdy_sum = 0;
  for (int64_t s = G::first(); s < samples; s += G::count()) {
    const Sample<T> sample(problem, s, G::rank());
    const A g = loss_gradient(sample, dy, s * dy_stride, norm);
    const A m = stats[s], l = stats[samples + s];
    const A a = sum_q<G>(sample, C);
    double r_sum = 0, k_sum = 0;
    for (int64_t c = G::rank(); c < C; c += G::kSize) {
      const int64_t at = sample.at(c);
      r_sum += at_or_zero(u, at) * std::exp(log_probability(static_cast<A>(x[at]), m, l));
      k_sum += sample.q_slope(c) * at_or_zero(v, at);
    }
    const A r = static_cast<A>(G::reduce(r_sum, Sum{}));
    const A sum_k = static_cast<A>(G::reduce(k_sum, Sum{}));
    double h = 0;
    for (int64_t c = G::rank(); c < C; c += G::kSize) {
      const int64_t at = sample.at(c);
      const A log_p = log_probability(static_cast<A>(x[at]), m, l), p = std::exp(log_p);
      const A uc = at_or_zero(u, at), slope = sample.q_slope(c), k = slope * at_or_zero(v, at);
      h += uc * (a * p - sample.q(c));
      if (v) h -= k * log_p;
      gx[at] = T(g * (a * p * (uc - r) + p * sum_k - k));
      if (gt) gt[at] = T(g * slope * (r - uc));
    }
    h = G::reduce(h, Sum{});
    if (G::rank() != 0) continue;
    if (sample.ignored()) h = 0;  // even where its logits are not finite
    h /= static_cast<double>(*norm);
    if (reduction == Reduction::none) gdy[s] = T(static_cast<A>(h));
    gdy_sum += h;
  }
  if (reduction != Reduction::none) store_partial(partials, gdy_sum);
}

}  // namespace

void cross_entropy(const CrossEntropyArgs& args, Context context) {
  const Problem problem{args.N, args.C, args.D, args.target};
  const int64_t samples = args.N * args.D;
  for_dtype(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    T* loss = static_cast<T*>(args.loss);
    acc_t<T>* norm = static_cast<acc_t<T>*>(args.norm);
    int64_t blocks = 0;
    with_group_size(args.C, args.D, [&](auto size) {
      blocks = reduction_blocks(samples, size);
      launch("cross_entropy", cross_entropy_kernel<T, decltype(size)::value>, blocks, kThreads,
             context, problem, static_cast<const T*>(args.x), args.reduction, loss,
             static_cast<acc_t<T>*>(args.stats), norm, args.workspace);
    });
    if (args.reduction == Reduction::none) return;
    launch("cross_entropy, sum of its parts", finish_loss_kernel<T>, 1, kThreads, context,
           args.workspace, blocks, args.reduction, args.target.index != nullptr,
           static_cast<double>(samples), loss, norm);
  });
}

void cross_entropy_backward(const CrossEntropyBackwardArgs& args, Context context) {
  const Problem problem{args.N, args.C, args.D, args.target};
  for_dtype(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    with_group_size(args.C, args.D, [&](auto size) {
      launch("cross_entropy_backward", cross_entropy_backward_kernel<T, decltype(size)::value>,
             reduction_blocks(args.N * args.D, size), kThreads, context, problem,
             static_cast<const T*>(args.dy), args.dy_stride, static_cast<const T*>(args.x),
             static_cast<const acc_t<T>*>(args.stats), static_cast<const acc_t<T>*>(args.norm),
             static_cast<T*>(args.dx), static_cast<T*>(args.dt));
    });
  });
}

void cross_entropy_double_backward(const CrossEntropyDoubleBackwardArgs& args, Context context) {
  const Problem problem{args.N, args.C, args.D, args.target};
  for_dtype(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    T* gdy = static_cast<T*>(args.gdy);
    const acc_t<T>* norm = static_cast<const acc_t<T>*>(args.norm);
    int64_t blocks = 0;
    with_group_size(args.C, args.D, [&](auto size) {
      blocks = reduction_blocks(args.N * args.D, size);
      launch("cross_entropy_double_backward",
             cross_entropy_double_backward_kernel<T, decltype(size)::value>, blocks, kThreads,
             context, problem, static_cast<const T*>(args.u), static_cast<const T*>(args.v),
             static_cast<const T*>(args.dy), args.dy_stride, static_cast<const T*>(args.x),
             static_cast<const acc_t<T>*>(args.stats), norm, args.reduction, gdy,
             static_cast<T*>(args.gx), static_cast<T*>(args.gt), args.workspace);
    });
    if (args.reduction == Reduction::none) return;
    launch("cross_entropy_double_backward, sum of its parts", finish_gdy_kernel<T>, 1, kThreads,
           context, args.workspace, blocks, gdy);
  });
}

}  // namespace gdext::cuda
