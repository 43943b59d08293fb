// C[M,N] = sum_k A[m,k] B[n,k] for operands whose neighbours in k lie side by side, as x and w do in
// x w^T: every element of C is a sum of lanes, and nothing needs packing. The kernel of choice for
// short batches, which read each weight once or a few times, and for narrow outputs.

template <class A, class T>
struct Dot {
  using V = Vec<A>;
  using Vector = typename V::type;
  static constexpr int W = V::width, kStrip = 64;
  // Sums are added to the total after so many vectors: as accurate as a tree.
  static constexpr int64_t kBlock = 32 * W;

  // c[r * ldc + q] = sum_k a[r * lda + k] b[q * ldb + k]
  template <int R, int Q>
  static void kernel(int64_t K, const T* a, int64_t lda, const T* b, int64_t ldb, A* c,
                     int64_t ldc) {
    Vector total[R][Q] = {};
    for (int64_t k0 = 0; k0 < K; k0 += kBlock) {
      Vector sum[R][Q] = {};
      const auto add = [&](auto&& load, int64_t k) GDEXT_INLINE_LAMBDA {
        Vector column[Q];
#pragma GCC unroll 8
        for (int q = 0; q < Q; ++q) column[q] = load(b + q * ldb + k);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const Vector row = load(a + r * lda + k);
#pragma GCC unroll 8
          for (int q = 0; q < Q; ++q) sum[r][q] += row * column[q];
        }
      };
      const int64_t end = std::min(K, k0 + kBlock), whole = end - (end - k0) % W;
      for (int64_t k = k0; k < whole; k += W) add([](const T* p) { return V::widen(p); }, k);
      if (whole < end) add([&](const T* p) { return V::widen(p, end - whole); }, whole);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int q = 0; q < Q; ++q) total[r][q] += sum[r][q];
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) lane_sums<A, Q>(total[r], c + r * ldc);
  }
};
