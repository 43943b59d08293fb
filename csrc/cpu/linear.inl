// contract/linear.h on the CPU.

template <class T>
Operand<T> rows_of(const Matrix& m) {
  return {static_cast<const T*>(m.data), m.row_stride, m.col_stride};
}
template <class T>
Operand<T> columns_of(const Matrix& m) {
  return {static_cast<const T*>(m.data), m.col_stride, m.row_stride};
}

// C = sum_k A[m,k] B[n,k]: by pairs where both operands are bfloat16 and the instruction set has
// products of pairs.
template <class A, class TA, class TB>
void multiply(int64_t M, int64_t N, int64_t K, const Operand<TA>& a, const Operand<TB>& b,
              const Product<A>& product) {
  if constexpr (std::is_same_v<TA, TB>) {
    if (Dot<A, TA>::serves(M, N, K, a, b)) return Dot<A, TA>::run(M, N, K, a, b, product);
  }
#if defined(GDEXT_BF16_PAIRS)
  if constexpr (std::is_same_v<TA, bfloat16> && std::is_same_v<TB, bfloat16>)
    return Gemm<uint32_t>::run(M, N, (K + 1) / 2, PairOperand{a.data, a.stride, a.k_stride, K},
                               PairOperand{b.data, b.stride, b.k_stride, K}, product);
#endif
  Gemm<A>::run(M, N, K, a, b, product);
}

// A product whose finished rows f(row, col, count, sums) takes; c as for Product.
template <class A, class F>
Product<A> finished_by(A* c, const F& f) {
  return {c,
          [](const void* context, const Finished<A>& part) {
            const F& take = *static_cast<const F*>(context);
            for (int64_t i = 0; i < part.rows; ++i)
              take(part.m + i, part.n, part.columns, part.sums + i * part.stride);
          },
          &f};
}

// z = x w^T + b,  y = f(z)
template <class T>
void linear_as(const LinearArgs& args) {
  using A = acc_t<T>;
  const T* bias = static_cast<const T*>(args.b);
  T *y = static_cast<T*>(args.y), *z = static_cast<T*>(args.z);
  const auto x = rows_of<T>(args.x), w = rows_of<T>(args.w);
  A* sums_in_y = nullptr;
  if constexpr (std::is_same_v<T, A>) {
    if (!bias && !z && args.activation == Activation::identity)
      return multiply<A>(args.B, args.O, args.I, x, w, {y, nullptr, nullptr});
    sums_in_y = y;
  }
  with_activation(args.activation, [&](auto activation) {
    const auto finish = [&](int64_t row, int64_t col, int64_t count, A* sums) {
      const int64_t at = row * args.O + col;
      for_each_lanes<A>(0, count, [&](auto lanes) {
        auto sum = lanes.load(sums);
        if (bias) sum += lanes.load(bias + col);
        if (z) lanes.store(z + at, sum);
        lanes.store(y + at, activate<activation.value>(sum));
      });
    };
    multiply<A>(args.B, args.O, args.I, x, w, finished_by(sums_in_y, finish));
  });
}

inline void linear(const LinearArgs& args) {
  for_dtype(args.dtype, [&](auto element) { linear_as<decltype(element)>(args); });
}

// `count` elements of a row as neighbours: where they are, or copied to `room`.
template <class T>
const T* contiguous_row(const Operand<T>& m, int64_t row, int64_t first, int64_t count, T* room) {
  const T* from = m.data + row * m.stride + first * m.k_stride;
  if (m.k_stride == 1) return from;
  for (int64_t i = 0; i < count; ++i) room[i] = from[i * m.k_stride];
  return room;
}

// dz = dy * f'(s)
template <class T, class TZ>
void make_dz(const LinearBackwardArgs& args) {
  constexpr int64_t kRun = 256;
  const auto dy = rows_of<T>(args.dy), s = rows_of<T>(args.s);
  TZ* dz = static_cast<TZ*>(args.dz);
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
      T dy_room[kRun], s_room[kRun];
      for (int64_t run = begin; run < end; ++run) {
        const int64_t row = run / across, first = run % across * kRun;
        const int64_t count = std::min(kRun, columns - first);
        activation_backward_row<activation.value>(contiguous_row(dy, row, first, count, dy_room),
                                                  contiguous_row(s, row, first, count, s_room),
                                                  dz + row * columns + first, count);
      }
    });
  });
}

// db = sum_b dz[b,:], in float64, in the order of b
template <class T, class TZ>
void sum_rows(int64_t B, int64_t O, const Operand<TZ>& dz, T* db) {
  using A = acc_t<T>;
  constexpr int64_t kColumns = Vec<A>::width;
  const int64_t grain =
      std::max<int64_t>(kElementwiseGrain / (kColumns * std::max<int64_t>(B, 1)), 1);
  parallel_for(0, (O + kColumns - 1) / kColumns, grain, [&](int64_t begin, int64_t end) {
    TZ room[kColumns];
    for (int64_t o0 = begin * kColumns; o0 < std::min(end * kColumns, O); o0 += kColumns) {
      const int64_t count = std::min(kColumns, O - o0);
      for_each_lanes<A>(0, count, [&](auto lanes) {
        LaneSum<A> sum;
        for (int64_t b = 0; b < B; ++b) sum += lanes.load(contiguous_row(dz, b, o0, count, room));
        lanes.store(db + o0, sum.lanes());
      });
    }
  });
}

// C = the product, rounded to T
template <class T, class TA, class TB>
void gemm_to(T* c, int64_t M, int64_t N, int64_t K, const Operand<TA>& a, const Operand<TB>& b) {
  using A = acc_t<T>;
  if constexpr (std::is_same_v<T, A>) {
    multiply<A>(M, N, K, a, b, {c, nullptr, nullptr});
  } else {
    const auto finish = [&](int64_t row, int64_t col, int64_t count, A* sums) {
      for_each_lanes<A>(0, count,
                        [&](auto lanes) { lanes.store(c + row * N + col, lanes.load(sums)); });
    };
    multiply<A>(M, N, K, a, b, finished_by<A>(nullptr, finish));
  }
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

template <class T>
void linear_backward_as(const LinearBackwardArgs& args) {
  using A = acc_t<T>;
  if (args.activation == Activation::identity) return multiply_dz<T, T>(args, args.dy);
#if defined(GDEXT_BF16_PAIRS)
  // dz is dy or 0: rounds to itself, and can be multiplied by pairs.
  if (std::is_same_v<T, bfloat16> && args.activation == Activation::relu) {
    make_dz<T, T>(args);
    return multiply_dz<T, T>(args, {args.dz, args.O, 1});
  }
#endif
  make_dz<T, A>(args);
  multiply_dz<T, A>(args, {args.dz, args.O, 1});
}

inline void linear_backward(const LinearBackwardArgs& args) {
  for_dtype(args.dtype, [&](auto element) { linear_backward_as<decltype(element)>(args); });
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
