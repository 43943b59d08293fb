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
                     activate_row<activation.value>(sums, count);
                     for (int64_t j = 0; j < count; ++j) y[at + j] = static_cast<T>(sums[j]);
                   });
    });
  });
}

// `count` elements of a row as contiguous numbers of A: where they are, or copied to `room`.
template <class A, class T>
const A* widened_row(const Operand<T>& m, int64_t row, int64_t first, int64_t count, A* room) {
  const T* from = m.data + row * m.stride + first * m.k_stride;
  if constexpr (std::is_same_v<T, A>) {
    if (m.k_stride == 1) return from;
  }
  for (int64_t i = 0; i < count; ++i) room[i] = static_cast<A>(from[i * m.k_stride]);
  return room;
}

// dz = dy * f'(s)
template <class T>
void make_dz(const LinearBackwardArgs& args) {
  using A = acc_t<T>;
  constexpr int64_t kRun = 256;
  const auto dy = rows_of<T>(args.dy), s = rows_of<T>(args.s);
  A* dz = static_cast<A*>(args.dz);
  int64_t rows = args.B, columns = args.O;
  const auto contiguous = [&](const Operand<T>& m) {
    return m.k_stride == 1 && m.stride == columns;
  };
  if (contiguous(dy) && contiguous(s)) {
    columns *= rows;
    rows = 1;
  }
  const int64_t across = (columns + kRun - 1) / kRun;
  const int64_t grain =
      std::max<int64_t>(kElementwiseGrain / std::clamp<int64_t>(columns, 1, kRun), 1);
  with_activation(args.activation, [&](auto activation) {
    parallel_for(0, rows * across, grain, [&](int64_t begin, int64_t end) {
      A dy_room[kRun], s_room[kRun];
      for (int64_t run = begin; run < end; ++run) {
        const int64_t row = run / across, first = run % across * kRun;
        const int64_t count = std::min(kRun, columns - first);
        activation_backward_row<activation.value>(widened_row(dy, row, first, count, dy_room),
                                                  widened_row(s, row, first, count, s_room),
                                                  dz + row * columns + first, count);
      }
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
      for_all_lanes<A>(args.n, [=](auto lanes) {
        const auto q_lanes = lanes.load(q), dy_lanes = lanes.load(dy), s_lanes = lanes.load(s);
        lanes.store(gdy, activation_backward<activation.value>(q_lanes, s_lanes));
        lanes.store(gz, activation_gz<activation.value>(q_lanes, dy_lanes, s_lanes));
        lanes.store(dz, activation_backward<activation.value>(dy_lanes, s_lanes));
      });
    });
  });
}
