// contract/linear.h on the CPU.

template <class T>
Operand<T> rows_of(const Matrix& m) {
  return {static_cast<const T*>(m.data), m.row_stride, m.col_stride};
}
template <class T>
Operand<T> columns_of(const Matrix& m) {
  return {static_cast<const T*>(m.data), m.col_stride, m.row_stride};
}

// z = x w^T + b,  y = f(z)
inline void linear(const LinearArgs& args) {
  for_dtype(args.dtype, [&](auto element) {
    using T = decltype(element);
    using A = acc_t<T>;
    with_activation(args.activation, [&](auto activation) {
      const T* bias = static_cast<const T*>(args.b);
      T *y = static_cast<T*>(args.y), *z = static_cast<T*>(args.z);
      Gemm<A>::run(args.B, args.O, args.I, rows_of<T>(args.x), rows_of<T>(args.w),
                   [&](int64_t row, int64_t col, int64_t count, A* sums) {
                     if (bias)
                       for (int64_t j = 0; j < count; ++j) sums[j] += static_cast<A>(bias[col + j]);
                     const int64_t at = row * args.O + col;
                     if (z)
                       for (int64_t j = 0; j < count; ++j) z[at + j] = static_cast<T>(sums[j]);
                     for (int64_t j = 0; j < count; ++j)
                       y[at + j] = static_cast<T>(activate<activation.value>(sums[j]));
                   });
    });
  });
}

// dz = dy * f'(s)
template <class T>
void make_dz(const LinearBackwardArgs& args) {
  using A = acc_t<T>;
  const auto dy = rows_of<T>(args.dy), s = rows_of<T>(args.s);
  A* dz = static_cast<A*>(args.dz);
  const int64_t grain = std::max<int64_t>(kElementwiseGrain / std::max<int64_t>(args.O, 1), 1);
  with_activation(args.activation, [&](auto activation) {
    parallel_for(0, args.B, grain, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b)
        for (int64_t o = 0; o < args.O; ++o)
          dz[b * args.O + o] = activation_backward<activation.value>(
              static_cast<A>(dy.data[b * dy.stride + o * dy.k_stride]),
              static_cast<A>(s.data[b * s.stride + o * s.k_stride]));
    });
  });
}

// db = sum_b dz[b,:], in float64, in the order of b
template <class T, class TZ>
void sum_rows(int64_t B, int64_t O, const Operand<TZ>& dz, T* db) {
  using A = acc_t<T>;
  constexpr int64_t kColumns = 64;
  const int64_t grain =
      std::max<int64_t>(kElementwiseGrain / (kColumns * std::max<int64_t>(B, 1)), 1);
  parallel_for(0, (O + kColumns - 1) / kColumns, grain, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t o0 = block * kColumns, count = std::min(kColumns, O - o0);
      double sums[kColumns] = {};
      for (int64_t b = 0; b < B; ++b) {
        const TZ* row = dz.data + b * dz.stride + o0 * dz.k_stride;
        for (int64_t o = 0; o < count; ++o) sums[o] += static_cast<A>(row[o * dz.k_stride]);
      }
      for (int64_t o = 0; o < count; ++o) db[o0 + o] = static_cast<T>(static_cast<A>(sums[o]));
    }
  });
}

// C = the product, rounded to T
template <class T, class TA, class TB>
void gemm_to(T* c, int64_t M, int64_t N, int64_t K, const Operand<TA>& a, const Operand<TB>& b) {
  using A = acc_t<T>;
  Gemm<A>::run(M, N, K, a, b, [&](int64_t row, int64_t col, int64_t count, const A* sums) {
    for (int64_t j = 0; j < count; ++j) c[row * N + col + j] = static_cast<T>(sums[j]);
  });
}

// The products, from a dz of element type TZ.
template <class T, class TZ>
void multiply_dz(const LinearBackwardArgs& args, const Matrix& dz) {
  // dx = dz w
  if (args.dx)
    gemm_to(static_cast<T*>(args.dx), args.B, args.I, args.O, rows_of<TZ>(dz),
            columns_of<T>(args.w));
  // dw = dz^T x
  if (args.dw)
    gemm_to(static_cast<T*>(args.dw), args.O, args.I, args.B, columns_of<TZ>(dz),
            columns_of<T>(args.x));
  // db = sum_b dz
  if (args.db) sum_rows(args.B, args.O, rows_of<TZ>(dz), static_cast<T*>(args.db));
}

inline void linear_backward(const LinearBackwardArgs& args) {
  for_dtype(args.dtype, [&](auto element) {
    using T = decltype(element);
    if (args.activation == Activation::identity) {
      multiply_dz<T, T>(args, args.dy);
    } else {
      make_dz<T>(args);
      multiply_dz<T, acc_t<T>>(args, {args.dz, args.O, 1});
    }
  });
}

inline void activation_double_backward(const ActivationDoubleBackwardArgs& args) {
  for_dtype(args.dtype, [&](auto element) {
    using T = decltype(element);
    using A = acc_t<T>;
    const T *q = static_cast<const T*>(args.q), *dy = static_cast<const T*>(args.dy),
            *s = static_cast<const T*>(args.s);
    T *gdy = static_cast<T*>(args.gdy), *gz = static_cast<T*>(args.gz),
      *dz = static_cast<T*>(args.dz);
    with_activation(args.activation, [&](auto activation) {
      for_each_element(args.n, [&](int64_t i) {
        const A qi = static_cast<A>(q[i]), dyi = static_cast<A>(dy[i]), si = static_cast<A>(s[i]);
        gdy[i] = static_cast<T>(activation_backward<activation.value>(qi, si));
        gz[i] = static_cast<T>(activation_gz<activation.value>(qi, dyi, si));
        dz[i] = static_cast<T>(activation_backward<activation.value>(dyi, si));
      });
    });
  });
}
