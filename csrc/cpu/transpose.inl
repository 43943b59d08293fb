// Moves between lanes: transposed blocks and sums over lanes, by log2(width) exchanges of halves
// (Eklundh, "A Fast Computer Method for Matrix Transposing", 1972).

#define GDEXT_INLINE [[gnu::always_inline]] inline

#if GDEXT_VEC_BYTES > 0
// Lane j of the results: with a and b cut into runs of kRun lanes, `even` takes a's even runs and
// moves b's even runs up between them; `odd` takes b's odd runs and moves a's odd runs down.
template <int kRun, class V, int... j>
GDEXT_INLINE V even_runs(V a, V b, std::integer_sequence<int, j...>) {
  return __builtin_shufflevector(a, b,
                                 ((j & kRun) ? static_cast<int>(sizeof...(j)) + j - kRun : j)...);
}
template <int kRun, class V, int... j>
GDEXT_INLINE V odd_runs(V a, V b, std::integer_sequence<int, j...>) {
  return __builtin_shufflevector(a, b,
                                 ((j & kRun) ? static_cast<int>(sizeof...(j)) + j : j + kRun)...);
}
#endif

// row[i][j] <-> row[j][i] of a block of width x width.
template <class A, int kRun = 1>
GDEXT_INLINE void transpose_vectors(typename Vec<A>::type* row) {
  constexpr int W = Vec<A>::width;
#if GDEXT_VEC_BYTES > 0
  if constexpr (kRun < W) {
    using Lanes = std::make_integer_sequence<int, W>;
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) {
      if (i & kRun) continue;
      const auto a = row[i], b = row[i + kRun];
      row[i] = even_runs<kRun>(a, b, Lanes{});
      row[i + kRun] = odd_runs<kRun>(a, b, Lanes{});
    }
    transpose_vectors<A, 2 * kRun>(row);
  }
#else
  static_assert(W == 1);
  static_cast<void>(row);
#endif
}

// to[j * to_stride + i] = from[i * from_stride + j], for i and j below `n`, a multiple of the
// width.
template <class A>
inline void transpose(int64_t n, const A* from, int64_t from_stride, A* to, int64_t to_stride) {
  using V = Vec<A>;
  constexpr int W = V::width;
  for (int64_t i = 0; i < n; i += W) {
    for (int64_t j = 0; j < n; j += W) {
      typename V::type block[W];
#pragma GCC unroll 16
      for (int r = 0; r < W; ++r) block[r] = V::load(from + (i + r) * from_stride + j);
      transpose_vectors<A>(block);
#pragma GCC unroll 16
      for (int r = 0; r < W; ++r) V::store(to + (j + r) * to_stride + i, block[r]);
    }
  }
}

// sums[i] = the sum of the lanes of v[i], N a power of two.
template <class A, int N, int kRun = 1>
GDEXT_INLINE void lane_sums(typename Vec<A>::type* v, A* sums) {
  constexpr int W = Vec<A>::width;
#if GDEXT_VEC_BYTES > 0
  using Lanes = std::make_integer_sequence<int, W>;
  if constexpr (N > W) {
    lane_sums<A, N / 2, kRun>(v, sums);
    lane_sums<A, N / 2, kRun>(v + N / 2, sums + N / 2);
  } else if constexpr (kRun < W) {
    constexpr int kLeft = kRun < N ? N / (2 * kRun) : 1;  // how many vectors this exchange leaves
#pragma GCC unroll 16
    for (int i = 0; i < kLeft; ++i) {
      const auto a = v[kRun < N ? 2 * i : 0], b = v[kRun < N ? 2 * i + 1 : 0];
      v[i] = even_runs<kRun>(a, b, Lanes{}) + odd_runs<kRun>(a, b, Lanes{});
    }
    lane_sums<A, N, 2 * kRun>(v, sums);
  } else {
    std::memcpy(sums, v, N * sizeof(A));
  }
#else
  static_assert(W == 1);
  std::memcpy(sums, v, N * sizeof(A));
#endif
}
