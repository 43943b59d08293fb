// The micro-kernels of gemm.inl: register tiles of every height, compiled each by itself and chosen
// at run time.

template <class E>
struct GemmKernels {
  using A = sum_t<E>;
  using V = Vec<A>;
  static constexpr int W = V::width;
  static_assert(Vec<E>::width == W);
  // Elements between two calls for what comes next: a cache line's.
  static constexpr int64_t kLine = std::max<int64_t>(64 / sizeof(E), W);

  // c (+)= a b, tile by tile along a row of C: `a` has R rows, a_row apart, or steps of R elements
  // (Pack::by_rows); b is read in rows that lie b_step apart, Q vectors of each, and b_next further
  // on for the next tile. `ahead` has two, of what is called in meanwhile; null for short sums.
  using Kernel = void (*)(int64_t tiles, int64_t depth, const E* a, int64_t a_row, const E* b,
                          int64_t b_next, int64_t b_step, A* c, int64_t ldc, bool accumulate,
                          Ahead* ahead);

  // How many vectors of b keep the registers busy where there are few rows.
  static constexpr int wide(int rows) {
    constexpr int kSums = kMicroRows * kMicroVectors;
    return 8 * rows <= kSums ? 8 : 4 * rows <= kSums ? 4 : kMicroVectors;
  }

  // The kernel for `rows` rows, and 1, kMicroVectors or wide(rows) vectors.
  static Kernel choose(int64_t rows, int64_t vectors, bool by_rows) {
    static constexpr auto for_steps = table<false>(std::make_integer_sequence<int, kMicroRows>{});
    static constexpr auto for_rows = table<true>(std::make_integer_sequence<int, kMicroRows>{});
    const auto& kernels = (by_rows ? for_rows : for_steps)[rows - 1];
    return kernels[vectors == 1 ? 0 : vectors == kMicroVectors ? 1 : 2];
  }

 private:
  template <int R, int Q, bool kByRows>
  static void kernel(int64_t tiles, int64_t depth, const E* a, int64_t a_row, const E* b,
                     int64_t b_next, int64_t b_step, A* c, int64_t ldc, bool accumulate,
                     Ahead* ahead) {
    if (ahead) call_in<R, Q>(c, ldc);
    for (; tiles > 0; --tiles, b += b_next, c += Q * W) {
      MicroTile<E, R, Q> tile;
      tile.clear();
      for (int64_t k = 0; k < depth; k += kLine) {
        if (ahead) {
          ahead[0].next();
          ahead[1].next();
        }
        const int64_t count = std::min(kLine, depth - k);
        if constexpr (kByRows)
          tile.multiply(count, a + k, a_row, 1, b + k * b_step, b_step);
        else
          tile.multiply(count, a + k * R, 1, R, b + k * b_step, b_step);
      }
#pragma GCC unroll 32
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int q = 0; q < Q; ++q) {
          A* to = c + r * ldc + q * W;
          V::store(to, accumulate ? V::load(to) + tile.sum[r][q] : tile.sum[r][q]);
        }
      }
    }
  }

  // A tile's place in C, for which the stores at the end of a long sum would wait. Short sums store
  // at once, and wait longer with it.
  template <int R, int Q>
  GDEXT_INLINE static void call_in(A* c, int64_t ldc) {
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int q = 0; q < Q; ++q) __builtin_prefetch(c + r * ldc + q * W, 1);
    }
  }

  template <bool kByRows, int... r>
  static constexpr auto table(std::integer_sequence<int, r...>) {
    return std::array<std::array<Kernel, 3>, sizeof...(r)>{
        {{kernel<r + 1, 1, kByRows>, kernel<r + 1, kMicroVectors, kByRows>,
          kernel<r + 1, wide(r + 1), kByRows>}...}};
  }
};
