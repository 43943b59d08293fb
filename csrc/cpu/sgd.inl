// contract/sgd.h on the CPU: one loop over the elements of all tensors, laid end to end, so that
// the threads' shares are equal whether there is one large tensor or a thousand small ones.

// A second thread is worth waking for this many elements, since another core's cache holds them.
constexpr int64_t kSgdGrain = 64 * 1024;

// Elements [begin, end) of one tensor. The options are template parameters, and the rule a local
// copy, so that the compiler takes every decision out of the loop.
template <class T, bool kMomentum, bool kFirst, bool kNesterov, bool kScaled>
void sgd_range(SgdRule<acc_t<T>> rule, acc_t<T> grad_scale, const SgdTensor& tensor, int64_t begin,
               int64_t end) {
  using A = acc_t<T>;
  rule.has_momentum = kMomentum;
  rule.nesterov = kNesterov;
  T* p = static_cast<T*>(tensor.p);
  T* g = static_cast<T*>(tensor.g);
  T* m = static_cast<T*>(tensor.m);
  for_each_lanes<A>(begin, end, [&](auto lanes) {
    auto gi = lanes.load(g);
    if (kScaled) {
      gi /= grad_scale;
      lanes.store(g, gi);
    }
    auto pi = lanes.load(p);
    typename Vec<A>::type mi = {};
    if (kMomentum && !kFirst) mi = lanes.load(m);
    rule(pi, gi, mi, kFirst);
    if (kMomentum) lanes.store(m, mi);
    lanes.store(p, pi);
  });
}

template <class T>
using SgdRange = void (*)(SgdRule<acc_t<T>>, acc_t<T>, const SgdTensor&, int64_t, int64_t);

// The loops for tensors whose buffer holds something already, and for those whose first step this
// is.
template <class T, bool kScaled>
std::array<SgdRange<T>, 2> sgd_ranges(bool momentum, bool nesterov) {
  if (!momentum) {
    const SgdRange<T> plain = sgd_range<T, false, false, false, kScaled>;
    return {plain, plain};
  }
  if (nesterov) {
    return {sgd_range<T, true, false, true, kScaled>, sgd_range<T, true, true, true, kScaled>};
  }
  return {sgd_range<T, true, false, false, kScaled>, sgd_range<T, true, true, false, kScaled>};
}

inline void sgd(const SgdArgs& args) {
  if (args.found_inf && *args.found_inf != 0.0f) return;
  auto* starts = static_cast<int64_t*>(scratch((args.count + 1) * sizeof(int64_t)));
  starts[0] = 0;
  for (int64_t t = 0; t < args.count; ++t) starts[t + 1] = starts[t] + args.tensors[t].n;

  for_dtype(args.dtype, [&](auto element) {
    using T = decltype(element);
    const double lr = args.lr_tensor ? read_lr(args.lr_tensor, args.lr_dtype) : args.lr;
    const SgdRule<acc_t<T>> rule(lr, args.momentum, args.dampening, args.weight_decay,
                                 args.nesterov, args.maximize);
    const acc_t<T> grad_scale = args.grad_scale ? *args.grad_scale : 1.0f;
    const auto ranges = args.grad_scale ? sgd_ranges<T, true>(args.momentum != 0, args.nesterov)
                                        : sgd_ranges<T, false>(args.momentum != 0, args.nesterov);
    parallel_for(0, starts[args.count], kSgdGrain, [&](int64_t begin, int64_t end) {
      int64_t t = std::upper_bound(starts, starts + args.count + 1, begin) - starts - 1;
      for (; begin < end; ++t) {
        const SgdTensor& tensor = args.tensors[t];
        const int64_t last = std::min(end, starts[t + 1]);
        ranges[tensor.first](rule, grad_scale, tensor, begin - starts[t], last - starts[t]);
        begin = last;
      }
    });
  });
}
