// contract/cross_entropy.h on the CPU: one sample (n, d) at a time, its sums over classes in
// float64.

template <class T>
struct CrossEntropySample {
  using A = acc_t<T>;
  const CrossEntropyTarget& target;
  int64_t C, D, first;  // first: offset of class 0, classes lie D apart
  const T *x, *w;
  int64_t index;  // the class index, perhaps out of range where ignored; -1 for probabilities
  bool ignored;

  CrossEntropySample(const CrossEntropyTarget& target_, const void* x_, int64_t C_, int64_t D_,
                     int64_t s)
      : target(target_),
        C(C_),
        D(D_),
        first((s / D_) * C_ * D_ + s % D_),
        x(static_cast<const T*>(x_)),
        w(static_cast<const T*>(target_.w)),
        index(target_.index ? target_.index[s] : -1),
        ignored(target_.index && target_.index[s] == target_.ignore_index) {}

  int64_t at(int64_t c) const { return first + c * D; }
  A logit(int64_t c) const { return static_cast<A>(x[at(c)]); }
  A weight(int64_t c) const { return w ? static_cast<A>(w[c]) : A(1); }
  A smoothing() const { return static_cast<A>(target.label_smoothing); }
  A q(int64_t c) const {
    if (ignored || (one_class() && c != index)) return A(0);
    const A hit =
        target.prob ? static_cast<A>(static_cast<const T*>(target.prob)[at(c)]) : A(c == index);
    return smoothed_target(hit, weight(c), smoothing(), static_cast<A>(C));
  }
  // q is one class: only that term of a sum over q counts, whatever the other logits and weights
  // are (0 * inf).
  bool one_class() const { return target.index && target.label_smoothing == 0; }
  A sum_q() const {
    if (ignored) return A(0);
    if (one_class()) return weight(index);
    Sum sum;
    for (int64_t c = 0; c < C; ++c) sum += q(c);
    return static_cast<A>(sum);
  }
  A loss(A m, A l) const {
    if (ignored) return A(0);
    if (one_class()) return -weight(index) * log_probability(logit(index), m, l);
    Sum sum;
    for (int64_t c = 0; c < C; ++c) sum += -q(c) * log_probability(logit(c), m, l);
    return static_cast<A>(sum);
  }
  // g = dy / norm. An ignored sample has none, whatever norm is (0 where all are ignored).
  A gradient(A dy, A norm) const { return ignored ? A(0) : dy / norm; }
  // What this sample adds to the norm of `mean`.
  A norm_term() const { return target.prob ? A(1) : ignored ? A(0) : weight(index); }
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
  return std::max<int64_t>(1024 / std::max<int64_t>(C, 1), 1);
}

inline void cross_entropy(const CrossEntropyArgs& args) {
  const int64_t samples = args.N * args.D;
  check_class_indices(args.target, samples, args.C);
  for_dtype(args.dtype, [&](auto element) {
    using T = decltype(element);
    using A = acc_t<T>;
    A *m = static_cast<A*>(args.stats), *l = m + samples;
    parallel_for(0, samples, sample_grain(args.C), [&](int64_t begin, int64_t end) {
      for (int64_t s = begin; s < end; ++s) {
        const CrossEntropySample<T> sample(args.target, args.x, args.C, args.D, s);
        A max = -std::numeric_limits<A>::infinity();
        for (int64_t c = 0; c < args.C; ++c) max = std::max(max, sample.logit(c));
        Sum rest;
        double ties = 0;
        for (int64_t c = 0; c < args.C; ++c) {
          const A x = sample.logit(c);
          if (x == max)
            ++ties;
          else
            rest += std::exp(x - max);
        }
        m[s] = max;
        l[s] = static_cast<A>(log_sum_exp<double>(max, ties, rest));
      }
    });

    const auto sample_loss = [&](int64_t s) {
      return CrossEntropySample<T>(args.target, args.x, args.C, args.D, s).loss(m[s], l[s]);
    };
    T* loss = static_cast<T*>(args.loss);
    A& norm = *static_cast<A*>(args.norm);
    norm = A(1);
    if (args.reduction == Reduction::none) {
      for_each_element(
          samples, [&](int64_t s) { loss[s] = static_cast<T>(sample_loss(s)); },
          sample_grain(args.C));
      return;
    }
    const Sums sums = sum_over(
        samples, args.workspace,
        [&](int64_t s) {
          const CrossEntropySample<T> sample(args.target, args.x, args.C, args.D, s);
          return Sums{static_cast<double>(sample_loss(s)), static_cast<double>(sample.norm_term())};
        },
        sample_grain(args.C));
    const bool mean = args.reduction == Reduction::mean;
    if (mean) norm = static_cast<A>(sums.second);
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
    T *dx = static_cast<T*>(args.dx), *dt = static_cast<T*>(args.dt);
    parallel_for(0, samples, sample_grain(args.C), [&](int64_t begin, int64_t end) {
      for (int64_t s = begin; s < end; ++s) {
        const CrossEntropySample<T> sample(args.target, args.x, args.C, args.D, s);
        const A g = sample.gradient(static_cast<A>(dy[s * args.dy_stride]), norm);
        const A a = sample.sum_q();
        for (int64_t c = 0; c < args.C; ++c) {
          const A log_p = log_probability(sample.logit(c), m[s], l[s]);
          // dx = g (a p - q)
          if (dx) dx[sample.at(c)] = static_cast<T>(g * (a * std::exp(log_p) - sample.q(c)));
          // dt = g w (1 - e) (-log p)
          if (dt)
            dt[sample.at(c)] =
                static_cast<T>(g * sample.weight(c) * (A(1) - sample.smoothing()) * -log_p);
        }
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
    const A *m = static_cast<const A*>(args.stats), *l = m + samples;
    const A norm = *static_cast<const A*>(args.norm);
    const T *dy = static_cast<const T*>(args.dy), *u = static_cast<const T*>(args.u),
            *v = static_cast<const T*>(args.v);
    T *gdy = static_cast<T*>(args.gdy), *gx = static_cast<T*>(args.gx),
      *gt = static_cast<T*>(args.gt);

    // h / norm of sample s; fills gx and gt on the way.
    const auto sample_gdy = [&](int64_t s) -> A {
      const CrossEntropySample<T> sample(args.target, args.x, args.C, args.D, s);
      const A g = sample.gradient(static_cast<A>(dy[s * args.dy_stride]), norm);
      const A a = sample.sum_q();
      const auto u_at = [&](int64_t c) { return u ? static_cast<A>(u[sample.at(c)]) : A(0); };
      const auto target_factor = [&](int64_t c) {
        return sample.weight(c) * (A(1) - sample.smoothing());
      };
      const auto k_at = [&](int64_t c) {
        return v ? target_factor(c) * static_cast<A>(v[sample.at(c)]) : A(0);
      };
      Sum r, sum_k, h;
      for (int64_t c = 0; c < args.C; ++c) {
        const A log_p = log_probability(sample.logit(c), m[s], l[s]);
        const A p = std::exp(log_p), k = k_at(c);
        r += u_at(c) * p;
        sum_k += k;
        h += u_at(c) * (a * p - sample.q(c));
        if (v) h += -k * log_p;
      }
      for (int64_t c = 0; c < args.C; ++c) {
        const A p = std::exp(log_probability(sample.logit(c), m[s], l[s]));
        const A ra = static_cast<A>(r), ka = static_cast<A>(sum_k);
        gx[sample.at(c)] = static_cast<T>(g * (a * p * (u_at(c) - ra) + p * ka - k_at(c)));
        if (gt) gt[sample.at(c)] = static_cast<T>(g * target_factor(c) * (ra - u_at(c)));
      }
      return (sample.ignored ? A(0) : static_cast<A>(h)) / norm;
    };
    if (args.reduction == Reduction::none) {
      for_each_element(
          samples, [&](int64_t s) { gdy[s] = static_cast<T>(sample_gdy(s)); },
          sample_grain(args.C));
    } else {
      const Sums sums = sum_over(
          samples, args.workspace,
          [&](int64_t s) { return Sums{static_cast<double>(sample_gdy(s)), 0.0}; },
          sample_grain(args.C));
      gdy[0] = static_cast<T>(static_cast<A>(sums.first));
    }
  });
}
