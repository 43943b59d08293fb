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

  // c (+)= a^T b, tile by tile along a row of C: `a` is a packed panel of R rows, b is read in rows
  // that lie b_step apart, Q vectors of each, and b_next further on for the next tile. `ahead`
  // has two, of what is called in meanwhile; null for short sums.
  using Kernel = void (*)(int64_t tiles, int64_t depth, const E* a, const E* b, int64_t b_next,
                          int64_t b_step, A* c, int64_t ldc, bool accumulate, Ahead* ahead);

  // How many vectors of b keep the registers busy where there are few rows.
  static constexpr int wide(int rows) {
    constexpr int kSums = kMicroRows * kMicroVectors;
    return 8 * rows <= kSums ? 8 : 4 * rows <= kSums ? 4 : kMicroVectors;
  }

  // The kernel for `rows` rows, and 1, kMicroVectors or wide(rows) vectors; `chunks`: how
  // Pack::rows left the rows.
  static Kernel choose(int64_t rows, int64_t vectors, bool chunks) {
    static constexpr auto by_steps = table<false>(std::make_integer_sequence<int, kMicroRows>{});
    static constexpr auto by_chunks = table<true>(std::make_integer_sequence<int, kMicroRows>{});
    const auto& kernels = (chunks ? by_chunks : by_steps)[rows - 1];
    return kernels[vectors == 1 ? 0 : vectors == kMicroVectors ? 1 : 2];
  }

 private:
  template <int R, int Q, bool kChunks>
  static void kernel(int64_t tiles, int64_t depth, const E* a, const E* b, int64_t b_next,
                     int64_t b_step, A* c, int64_t ldc, bool accumulate, Ahead* ahead) {
    if (ahead) call_in<R, Q>(c, ldc);
    for (; tiles > 0; --tiles, b += b_next, c += Q * W) {
      MicroTile<E, R, Q> tile;
      tile.clear();
      for (int64_t k0 = 0; k0 < depth; k0 += kLine) {
        if (ahead) {
          ahead[0].next();
          ahead[1].next();
        }
        const int64_t end = std::min(depth, k0 + kLine);
        if constexpr (kChunks) {
          for (int64_t k = k0; k < end; k += W) {
            if (Q == kMicroVectors && b_step != Q * W) prefetch<Q>(b, b_step, k + W, depth);
            tile.multiply(std::min<int64_t>(W, end - k), a + k * R, W, 1, b + k * b_step, b_step);
          }
        } else {
          tile.multiply(end - k0, a + k0 * R, 1, R, b + k0 * b_step, b_step);
        }
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

  // Rows of b that are not packed lie too far apart for the processor to foresee.
  template <int Q>
  static void prefetch(const E* b, int64_t b_step, int64_t begin, int64_t depth) {
    for (int64_t k = begin; k < std::min<int64_t>(begin + W, depth); ++k)
      for (int q = 0; q < Q; ++q) __builtin_prefetch(b + k * b_step + q * W);
  }

  template <bool kChunks, int... r>
  static constexpr auto table(std::integer_sequence<int, r...>) {
    return std::array<std::array<Kernel, 3>, sizeof...(r)>{
        {{kernel<r + 1, 1, kChunks>, kernel<r + 1, kMicroVectors, kChunks>,
          kernel<r + 1, wide(r + 1), kChunks>}...}};
  }
};
