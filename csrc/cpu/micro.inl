// The register tile: R rows x V vectors of sums, kept in registers while products are added to
// them. Each step reads V vectors of b and broadcasts R elements of a, each shared by the V
// vectors. With R * V sums, V vectors of b and one broadcast in registers, R * V must cover the
// latency of a multiply-add times how many start in a cycle (8 to 10), and (R + V) loads must keep
// up with R * V multiply-adds.

template <class E, int R, int V>
struct MicroTile {
  using Vector = typename Vec<E>::type;
  using Sum = typename Vec<sum_t<E>>::type;
  static constexpr int width = Vec<E>::width;
  Sum sum[R][V];

  GDEXT_INLINE void clear() {
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[r][v] = Sum{};
    }
  }

  // sum[r][v] += sum_k a[r * a_row + k * a_step] * b[k * b_step + v * width], k in [0, depth).
  // Strides that are constants fold into the instructions' addresses; of a_row these have room for
  // one and two, so that every third row of a takes a register.
  GDEXT_INLINE void multiply(int64_t depth, const E* a, int64_t a_row, int64_t a_step, const E* b,
                             int64_t b_step) {
    const E* rows[(R + 2) / 3];
#pragma GCC unroll 32
    for (int r = 0; r < R; r += 3) rows[r / 3] = a + r * a_row;
#pragma GCC unroll 2
    for (int64_t k = 0; k < depth; ++k) {
      Vector columns[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) columns[v] = Vec<E>::load(b + k * b_step + v * width);
#pragma GCC unroll 32
      for (int r = 0; r < R; ++r) {
        const Vector element = splat<Vector>(rows[r / 3][r % 3 * a_row + k * a_step]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) multiply_add(sum[r][v], element, columns[v]);
      }
    }
  }
};
