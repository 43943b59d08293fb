// contract/cross_entropy.h on the CPU: one sample (n, d) at a time, its classes as vectors, its
// sums over classes in float64.

// Rows of C classes of tensors [N,C,D]: in place where D is 1, else copied to and from a scratch
// memory with room for `slots` rows.
template <class T>
class ClassRows {
 public:
  ClassRows(int64_t C, int64_t D, int slots)
      : C_(C), D_(D), room_(D == 1 ? nullptr : static_cast<T*>(scratch(slots * C * sizeof(T)))) {}

  int64_t at(int64_t s, int64_t c) const { return (s / D_ * C_ + c) * D_ + s % D_; }
  const T* read(const void* tensor, int64_t s, int slot) const {
    if (!tensor) return nullptr;
    const T* from = static_cast<const T*>(tensor) + at(s, 0);
    if (D_ == 1) return from;
    T* to = room_ + slot * C_;
    for (int64_t c = 0; c < C_; ++c) to[c] = from[c * D_];
    return to;
  }
  // Where to write a row; written() then says that it is there.
  T* write(void* tensor, int64_t s, int slot) const {
    if (!tensor) return nullptr;
    return D_ == 1 ? static_cast<T*>(tensor) + at(s, 0) : room_ + slot * C_;
  }
  void written(void* tensor, int64_t s, int slot) const {
    if (!tensor || D_ == 1) return;
    T* to = static_cast<T*>(tensor) + at(s, 0);
    for (int64_t c = 0; c < C_; ++c) to[c * D_] = room_[slot * C_ + c];
  }

 private:
  int64_t C_, D_;
  T* room_;
};

template <class T>
struct CrossEntropySample {
  using A = acc_t<T>;
  using V = typename Vec<A>::type;
  const T *x, *prob, *w;  // [C] each; prob and w perhaps null
  int64_t C, index;       // the class index, perhaps out of range where ignored; -1: probabilities
  A smoothing;
  bool ignored;
  // q is one class: only that term of a sum over q counts, whatever the other logits and weights
  // are (0 * inf).
  bool one_class;

  // Takes the first two slots of `rows`.
  CrossEntropySample(const CrossEntropyTarget& target, const ClassRows<T>& rows, const void* x_,
                     int64_t C_, int64_t s)
      : x(rows.read(x_, s, 0)),
        prob(rows.read(target.prob, s, 1)),
        w(static_cast<const T*>(target.w)),
        C(C_),
        index(target.index ? target.index[s] : -1),
        smoothing(static_cast<A>(target.label_smoothing)),
        ignored(target.index && index == target.ignore_index),
        one_class(target.index && target.label_smoothing == 0) {}

  A weight(int64_t c) const { return w ? static_cast<A>(w[c]) : A(1); }
  template <class L>
  V weight(L lanes) const {
    return w ? lanes.load(w) : splat<V>(A(1));
  }
  template <class L>
  V log_p(L lanes, A m, A l) const {
    return log_probability(lanes.load(x, m), m, l);
  }
  template <class L>
  V q(L lanes) const {
    if (ignored) return V{};
    const auto is_index = [&] {
      return counted_from<V>(lanes.at) == static_cast<integer_t<V>>(index);
    };
    if (one_class) return select(is_index(), splat<V>(weight(index)), V{});
    const V hit = prob ? lanes.load(prob) : select(is_index(), splat<V>(A(1)), V{});
    return lanes.only(smoothed_target(hit, weight(lanes), smoothing, static_cast<A>(C)));
  }
  // The sum over classes of f(lanes).
  template <class F>
  A sum(const F& f) const {
    LaneSum<A> terms;
    for_each_lanes<A>(0, C, [&](auto lanes) { terms += f(lanes); });
    return static_cast<A>(terms.total());
  }
  A sum_q() const {
    if (ignored) return A(0);
    if (one_class) return weight(index);
    return sum([&](auto lanes) { return q(lanes); });
  }
  A loss(A m, A l) const {
    if (ignored) return A(0);
    if (one_class) return -weight(index) * log_probability(static_cast<A>(x[index]), m, l);
    return sum([&](auto lanes) { return -q(lanes) * log_p(lanes, m, l); });
  }
  // g = dy / norm. An ignored sample has none, whatever norm is (0 where all are ignored).
  A gradient(A dy, A norm) const { return ignored ? A(0) : dy / norm; }
  // What this sample adds to the norm of `mean`.
  A norm_term() const { return prob ? A(1) : ignored ? A(0) : weight(index); }
};

inline void check_class_indices(const CrossEntropyTarget& target, int64_t samples, int64_t C) {
  if (!target.index) return;
  for (int64_t s = 0; s < samples; ++s) {
    const int64_t index = target.index[s];
    if (index != target.ignore_index && (index < 0 || index >= C))
      throw std::out_of_range("Target " + std::to_string(index) + " is out of bounds.");
  }
}

inline int64_t sample_grain(int64_t C) {
  return std::max<int64_t>(kElementwiseGrain / 4 / std::max<int64_t>(C, 1), 1);
}

// Up to kSize samples' terms of log_sum_exp, so that their logarithms are taken together.
struct LogSums {
  static constexpr int kSize = 16;
  double max[kSize] = {}, ties[kSize] = {}, rest[kSize] = {}, log_sum[kSize];

  template <class A, class T>
  void set(int i, const T* x, int64_t C) {
    using V = typename Vec<A>::type;
    constexpr A kLowest = -std::numeric_limits<A>::infinity();
    V highest = splat<V>(kLowest);
    for_each_lanes<A>(0, C,
                      [&](auto lanes) { highest = at_least(highest, lanes.load(x, kLowest)); });
    const A m = fold<A>(highest, [](A a, A b) { return a > b ? a : b; });
    V equal{};
    LaneSum<A> below;
    for_each_lanes<A>(0, C, [&](auto lanes) {
      const V logit = lanes.load(x, kLowest);
      const auto is_max = logit == m;
      equal += select(is_max, splat<V>(A(1)), V{});
      below += select(is_max, V{}, exp(logit - m));
    });
    max[i] = static_cast<double>(m);
    ties[i] = static_cast<double>(fold<A>(equal, [](A a, A b) { return a + b; }));
    rest[i] = below.total();
  }
  void take_logarithms() {
    for_each_lanes<double>(0, kSize, [&](auto lanes) {
      lanes.store(log_sum, log_sum_exp(lanes.load(max), lanes.load(ties), lanes.load(rest)));
    });
  }
};

inline void cross_entropy(const CrossEntropyArgs& args) {
  const int64_t samples = args.N * args.D;
  check_class_indices(args.target, samples, args.C);
  for_dtype(args.dtype, [&](auto element) {
    using T = decltype(element);
    using A = acc_t<T>;
    A *m = static_cast<A*>(args.stats), *l = m + samples;
    T* loss = static_cast<T*>(args.loss);
    A& norm = *static_cast<A*>(args.norm);
    const bool each = args.reduction == Reduction::none;
    const auto range = [&](int64_t begin, int64_t end) {
      const ClassRows<T> rows(args.C, args.D, 2);
      Sum losses, weights;
      for (; begin < end; begin += LogSums::kSize) {
        const int count = static_cast<int>(std::min<int64_t>(LogSums::kSize, end - begin));
        LogSums sums;
        for (int i = 0; i < count; ++i) sums.set<A>(i, rows.read(args.x, begin + i, 0), args.C);
        sums.take_logarithms();
        for (int i = 0; i < count; ++i) {
          const int64_t s = begin + i;
          m[s] = static_cast<A>(sums.max[i]);
          l[s] = static_cast<A>(sums.log_sum[i]);
          const CrossEntropySample<T> sample(args.target, rows, args.x, args.C, s);
          const A value = sample.loss(m[s], l[s]);
          if (each) loss[s] = static_cast<T>(value);
          losses += static_cast<double>(value);
          weights += static_cast<double>(sample.norm_term());
        }
      }
      return Sums{losses.value(), weights.value()};
    };
    const Sums sums = sum_over(samples, args.workspace, sample_grain(args.C), range);
    const bool mean = args.reduction == Reduction::mean;
    norm = mean ? static_cast<A>(sums.second) : A(1);
    if (!each)
      loss[0] = static_cast<T>(static_cast<A>(mean ? sums.first / sums.second : sums.first));
  });
}

inline void cross_entropy_backward(const CrossEntropyBackwardArgs& args) {
  const int64_t samples = args.N * args.D;
  check_class_indices(args.target, samples, args.C);
  for_dtype(args.dtype, [&](auto element) {
    using T = decltype(element);
    using A = acc_t<T>;
    const A *m = static_cast<const A*>(args.stats), *l = m + samples;
    const A norm = *static_cast<const A*>(args.norm);
    const T* dy = static_cast<const T*>(args.dy);
    parallel_for(0, samples, sample_grain(args.C), [&](int64_t begin, int64_t end) {
      const ClassRows<T> rows(args.C, args.D, 4);
      for (int64_t s = begin; s < end; ++s) {
        const CrossEntropySample<T> sample(args.target, rows, args.x, args.C, s);
        const A g = sample.gradient(static_cast<A>(dy[s * args.dy_stride]), norm);
        const A a = sample.sum_q();
        T *dx = rows.write(args.dx, s, 2), *dt = rows.write(args.dt, s, 3);
        for_each_lanes<A>(0, args.C, [&, m_s = m[s], l_s = l[s]](auto lanes) {
          const auto log_p = sample.log_p(lanes, m_s, l_s);
          // dx = g (a p - q)
          if (dx) lanes.store(dx, g * (a * exp(log_p) - sample.q(lanes)));
          // dt = g w (1 - e) (-log p)
          if (dt) lanes.store(dt, g * sample.weight(lanes) * (A(1) - sample.smoothing) * -log_p);
        });
        rows.written(args.dx, s, 2);
        rows.written(args.dt, s, 3);
      }
    });
  });
}

inline void cross_entropy_double_backward(const CrossEntropyDoubleBackwardArgs& args) {
  const int64_t samples = args.N * args.D;
  check_class_indices(args.target, samples, args.C);
  for_dtype(args.dtype, [&](auto element) {
    using T = decltype(element);
    using A = acc_t<T>;
    using V = typename Vec<A>::type;
    const A *m = static_cast<const A*>(args.stats), *l = m + samples;
    const A norm = *static_cast<const A*>(args.norm);
    const T* dy = static_cast<const T*>(args.dy);
    T* gdy = static_cast<T*>(args.gdy);

    // h / norm of sample s; fills gx and gt on the way.
    const auto sample_gdy = [&](const ClassRows<T>& rows, int64_t s) -> A {
      const CrossEntropySample<T> sample(args.target, rows, args.x, args.C, s);
      const T *u = rows.read(args.u, s, 2), *v = rows.read(args.v, s, 3);
      T *gx = rows.write(args.gx, s, 4), *gt = rows.write(args.gt, s, 5);
      const A g = sample.gradient(static_cast<A>(dy[s * args.dy_stride]), norm);
      const A a = sample.sum_q(), m_s = m[s], l_s = l[s];
      const auto u_at = [&](auto lanes) { return u ? lanes.load(u) : V{}; };
      const auto target_factor = [&](auto lanes) {
        return sample.weight(lanes) * (A(1) - sample.smoothing);
      };
      const auto k_at = [&](auto lanes) { return v ? target_factor(lanes) * lanes.load(v) : V{}; };
      LaneSum<A> r, sum_k, h;
      for_each_lanes<A>(0, args.C, [&](auto lanes) {
        const V log_p = sample.log_p(lanes, m_s, l_s), p = exp(log_p), k = k_at(lanes);
        r += lanes.only(u_at(lanes) * p);
        sum_k += k;
        h += lanes.only(u_at(lanes) * (a * p - sample.q(lanes)));
        if (v) h += lanes.only(-k * log_p);
      });
      const A ra = static_cast<A>(r.total()), ka = static_cast<A>(sum_k.total());
      for_each_lanes<A>(0, args.C, [&](auto lanes) {
        const V p = exp(sample.log_p(lanes, m_s, l_s)), u_lanes = u_at(lanes);
        lanes.store(gx, g * (a * p * (u_lanes - ra) + p * ka - k_at(lanes)));
        if (gt) lanes.store(gt, g * target_factor(lanes) * (ra - u_lanes));
      });
      rows.written(args.gx, s, 4);
      rows.written(args.gt, s, 5);
      return (sample.ignored ? A(0) : static_cast<A>(h.total())) / norm;
    };
    const bool each = args.reduction == Reduction::none;
    const auto range = [&](int64_t begin, int64_t end) {
      const ClassRows<T> rows(args.C, args.D, 6);
      Sum sum;
      for (int64_t s = begin; s < end; ++s) {
        const A value = sample_gdy(rows, s);
        if (each) gdy[s] = static_cast<T>(value);
        sum += static_cast<double>(value);
      }
      return Sums{sum.value(), 0.0};
    };
    const Sums sums = sum_over(samples, args.workspace, sample_grain(args.C), range);
    if (!each) gdy[0] = static_cast<T>(static_cast<A>(sums.first));
  });
}
