// contract/mse.h on the CPU.

template <class T>
struct MseInputs {
  using A = acc_t<T>;
  const T *x, *t, *w;
  MseInputs(const void* x_, const void* t_, const void* w_)
      : x(static_cast<const T*>(x_)), t(static_cast<const T*>(t_)), w(static_cast<const T*>(w_)) {}
  A weight(int64_t i) const { return w ? static_cast<A>(w[i]) : A(1); }
  A loss(int64_t i) const {
    return squared_error(static_cast<A>(x[i]), static_cast<A>(t[i]), weight(i));
  }
  A dx(int64_t i, A g) const {
    return squared_error_dx(static_cast<A>(x[i]), static_cast<A>(t[i]), weight(i), g);
  }
};

inline void mse(const MseArgs& args) {
  for_dtype(args.dtype, [&](auto element) {
    using T = decltype(element);
    using A = acc_t<T>;
    const MseInputs<T> in(args.x, args.t, args.w);
    T* loss = static_cast<T*>(args.loss);
    A& norm = *static_cast<A*>(args.norm);
    norm = A(1);
    if (args.reduction == Reduction::none) {
      for_each_element(args.n, [&](int64_t i) { loss[i] = static_cast<T>(in.loss(i)); });
      return;
    }
    const Sums sums = sum_over(args.n, args.workspace, [&](int64_t i) {
      return Sums{static_cast<double>(in.loss(i)), static_cast<double>(in.weight(i))};
    });
    const bool mean = args.reduction == Reduction::mean;
    if (mean) norm = static_cast<A>(sums.second);
    loss[0] = static_cast<T>(static_cast<A>(mean ? sums.first / sums.second : sums.first));
  });
}

inline void mse_backward(const MseBackwardArgs& args) {
  for_dtype(args.dtype, [&](auto element) {
    using T = decltype(element);
    using A = acc_t<T>;
    const MseInputs<T> in(args.x, args.t, args.w);
    const T* dy = static_cast<const T*>(args.dy);
    T* dx = static_cast<T*>(args.dx);
    const A norm = *static_cast<const A*>(args.norm);
    for_each_element(args.n, [&](int64_t i) {
      dx[i] = static_cast<T>(in.dx(i, static_cast<A>(dy[i * args.dy_stride]) / norm));
    });
  });
}

inline void mse_double_backward(const MseDoubleBackwardArgs& args) {
  for_dtype(args.dtype, [&](auto element) {
    using T = decltype(element);
    using A = acc_t<T>;
    const MseInputs<T> in(args.x, args.t, args.w);
    const T *u = static_cast<const T*>(args.u), *dy = static_cast<const T*>(args.dy);
    T *gdy = static_cast<T*>(args.gdy), *gx = static_cast<T*>(args.gx);
    const A norm = *static_cast<const A*>(args.norm);
    const auto gdy_term = [&](int64_t i) { return in.dx(i, static_cast<A>(u[i]) / norm); };
    // dx is linear in x - t: its derivative along u is itself, with u for x - t.
    for_each_element(args.n, [&](int64_t i) {
      const A dyi = static_cast<A>(dy[i * args.dy_stride]);
      gx[i] =
          static_cast<T>(squared_error_dx(static_cast<A>(u[i]), A(0), in.weight(i), dyi / norm));
    });
    if (args.reduction == Reduction::none) {
      for_each_element(args.n, [&](int64_t i) { gdy[i] = static_cast<T>(gdy_term(i)); });
    } else {
      const Sums sums = sum_over(args.n, args.workspace, [&](int64_t i) {
        return Sums{static_cast<double>(gdy_term(i)), 0.0};
      });
      gdy[0] = static_cast<T>(static_cast<A>(sums.first));
    }
  });
}
