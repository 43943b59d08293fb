// C[M,N] = sum_k A[m,k] B[n,k] for operands whose neighbours in k lie side by side, as x and w do
// in x w^T: each element of C is summed in the lanes of a vector, and nothing needs packing. The
// way of short batches, which read each weight once or a few times, and of narrow outputs.

// A vector of factors from neighbours in k: `step` elements, or the first n of them and zeros.
template <class A, class T>
struct Factors {
  static constexpr int64_t step = Vec<A>::width;
  static auto load(const T* from) { return Vec<A>::widen(from); }
  static auto load(const T* from, int64_t n) { return Vec<A>::widen(from, n); }
};
#if defined(GDEXT_BF16_PAIRS)
template <>
struct Factors<float, bfloat16> {
  static constexpr int64_t step = 2 * Vec<float>::width;
  static auto load(const bfloat16* from, int64_t n = step) { return load_pairs(from, n); }
};
#endif

template <class A, class T>
struct Dot {
  using Factor = Factors<A, T>;
  using Vector = typename Vec<A>::type;
  static constexpr int64_t W = Factor::step;
  // The lanes' sums are added to the total after so many elements each: for accuracy.
  static constexpr int64_t kBlock = 32 * W;
  static constexpr int64_t kTaskRows = 32, kTaskColumns = 64;

  // Whether adding up the lanes of M * N sums costs less than packing.
  static bool serves(int64_t M, int64_t N, int64_t K, const Operand<T>& a, const Operand<T>& b) {
    const int64_t shorter = std::min(M, N);
    return a.k_stride == 1 && b.k_stride == 1 && shorter <= 16 && 8 * shorter <= K;
  }

  static void run(int64_t M, int64_t N, int64_t K, const Operand<T>& a, const Operand<T>& b,
                  const Product<A>& product) {
    const int64_t down = (M + kTaskRows - 1) / kTaskRows;
    const int64_t across = (N + kTaskColumns - 1) / kTaskColumns;
    const int64_t cost = std::max<int64_t>(std::min(M, kTaskRows) * kTaskColumns * K, 1);
    parallel_for(0, down * across, std::max<int64_t>(kMinTask / cost, 1),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t task = begin; task < end; ++task) {
                     const int64_t m = task % down * kTaskRows, n = task / down * kTaskColumns;
                     block(m, std::min(kTaskRows, M - m), n, std::min(kTaskColumns, N - n), N, K, a,
                           b, product);
                   }
                 });
  }

 private:
  static void block(int64_t m, int64_t rows, int64_t n, int64_t columns, int64_t N, int64_t K,
                    const Operand<T>& a, const Operand<T>& b, const Product<A>& product) {
    alignas(64) A sums[kTaskRows * kTaskColumns];
    const int64_t tiles = (rows + kDotRows - 1) / kDotRows;
    const bool few = rows <= kDotRows / 2;
    int64_t j = 0;
    const auto add_columns = [&](const Kernel* kernels, int64_t Q) {
      for (; j + Q <= columns; j += Q) {
        for (int64_t tile = 0; tile < tiles; ++tile) {
          const int64_t i = rows * tile / tiles, R = rows * (tile + 1) / tiles - i;
          kernels[R - 1](K, a.at(m + i, 0), a.stride, b.at(n + j, 0), b.stride,
                         sums + i * kTaskColumns + j);
        }
      }
    };
    if (few) add_columns(kernels<2 * kDotColumns, kDotRows / 2>(), 2 * kDotColumns);
    add_columns(kernels<kDotColumns, kDotRows>(), kDotColumns);
    add_columns(kernels<1, kDotRows>(), 1);
    product.store(N, {m, n, rows, columns, sums, kTaskColumns});
  }

  // c[r * kTaskColumns + q] = sum_k a[r * lda + k] b[q * ldb + k]
  using Kernel = void (*)(int64_t K, const T* a, int64_t lda, const T* b, int64_t ldb, A* c);
  template <int R, int Q>
  static void kernel(int64_t K, const T* a, int64_t lda, const T* b, int64_t ldb, A* c) {
    Vector total[R][Q] = {};
    for (int64_t k0 = 0; k0 < K; k0 += kBlock) {
      Vector sum[R][Q] = {};
      const int64_t end = std::min(K, k0 + kBlock);
      int64_t k = k0;
      for (; k + W <= end; k += W) add<R, Q, true>(a + k, lda, b + k, ldb, W, sum);
      if (k < end) add<R, Q, false>(a + k, lda, b + k, ldb, end - k, sum);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int q = 0; q < Q; ++q) total[r][q] += sum[r][q];
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) lane_sums<A, Q>(total[r], c + r * kTaskColumns);
  }
  // One step of `depth` elements, a whole vector's or fewer.
  template <int R, int Q, bool kWhole>
  GDEXT_INLINE static void add(const T* a, int64_t lda, const T* b, int64_t ldb, int64_t depth,
                               Vector (&sum)[R][Q]) {
    decltype(Factor::load(b)) column[Q];
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q)
      column[q] = kWhole ? Factor::load(b + q * ldb) : Factor::load(b + q * ldb, depth);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const auto row = kWhole ? Factor::load(a + r * lda) : Factor::load(a + r * lda, depth);
#pragma GCC unroll 8
      for (int q = 0; q < Q; ++q) multiply_add(sum[r][q], row, column[q]);
    }
  }
  // The kernels for Q columns and 1 to kMost rows.
  template <int Q, int kMost>
  static const Kernel* kernels() {
    return table<Q>(std::make_integer_sequence<int, kMost>{});
  }
  template <int Q, int... r>
  static const Kernel* table(std::integer_sequence<int, r...>) {
    static constexpr Kernel all[] = {kernel<r + 1, Q>...};
    return all;
  }
};
