// contract/mse.h on the CPU.

template <class T>
struct MseInputs {
  using A = acc_t<T>;
  using V = typename Vec<A>::type;
  const T *x, *t, *w;
  MseInputs(const void* x_, const void* t_, const void* w_)
      : x(static_cast<const T*>(x_)), t(static_cast<const T*>(t_)), w(static_cast<const T*>(w_)) {}

  template <class L>
  V weight(L lanes) const {
    return w ? lanes.load(w) : splat<V>(A(1));
  }
  template <class L>
  V loss(L lanes) const {
    return squared_error(lanes.load(x), lanes.load(t), weight(lanes));
  }
  template <class L>
  V dx(L lanes, V g) const {
    return squared_error_dx(lanes.load(x), lanes.load(t), weight(lanes), g);
  }
};

// dy / norm, of a vector of elements.
template <class T>
struct MseGradient {
  using A = acc_t<T>;
  using V = typename Vec<A>::type;
  const T* dy;
  bool everywhere;  // dy is one number
  A norm, g;
  MseGradient(const void* dy_, int64_t dy_stride, const void* norm_)
      : dy(static_cast<const T*>(dy_)),
        everywhere(dy_stride == 0),
        norm(*static_cast<const A*>(norm_)),
        g(everywhere ? static_cast<A>(*dy) / norm : A(0)) {}

  template <class L>
  V operator()(L lanes) const {
    return everywhere ? splat<V>(g) : lanes.load(dy) / norm;
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
      for_all_lanes<A>(args.n, [=](auto lanes) { lanes.store(loss, in.loss(lanes)); });
      return;
    }
    const Sums sums =
        sum_over(args.n, args.workspace, kElementwiseGrain, [=](int64_t begin, int64_t end) {
          LaneSum<A> losses, weights;
          for_each_lanes<A>(begin, end, [&](auto lanes) {
            losses += in.loss(lanes);
            if (in.w) weights += lanes.load(in.w);
          });
          return Sums{losses.total(), in.w ? weights.total() : static_cast<double>(end - begin)};
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
    const MseGradient<T> g(args.dy, args.dy_stride, args.norm);
    T* dx = static_cast<T*>(args.dx);
    for_all_lanes<A>(args.n, [=](auto lanes) { lanes.store(dx, in.dx(lanes, g(lanes))); });
  });
}

inline void mse_double_backward(const MseDoubleBackwardArgs& args) {
  for_dtype(args.dtype, [&](auto element) {
    using T = decltype(element);
    using A = acc_t<T>;
    using V = typename Vec<A>::type;
    const MseInputs<T> in(args.x, args.t, args.w);
    const MseGradient<T> g(args.dy, args.dy_stride, args.norm);
    const T* u = static_cast<const T*>(args.u);
    T *gdy = static_cast<T*>(args.gdy), *gx = static_cast<T*>(args.gx);
    const auto gdy_term = [=](auto lanes) {
      return lanes.only(in.dx(lanes, lanes.load(u) / g.norm));
    };
    // dx is linear in x - t: its derivative along u is itself, with u for x - t.
    for_all_lanes<A>(args.n, [=](auto lanes) {
      lanes.store(gx, squared_error_dx(lanes.load(u), V{}, in.weight(lanes), g(lanes)));
    });
    if (args.reduction == Reduction::none) {
      for_all_lanes<A>(args.n, [=](auto lanes) { lanes.store(gdy, gdy_term(lanes)); });
    } else {
      const Sums sums =
          sum_over(args.n, args.workspace, kElementwiseGrain, [=](int64_t begin, int64_t end) {
            LaneSum<A> terms;
            for_each_lanes<A>(begin, end, [&](auto lanes) { terms += gdy_term(lanes); });
            return Sums{terms.total(), 0.0};
          });
      gdy[0] = static_cast<T>(static_cast<A>(sums.first));
    }
  });
}
