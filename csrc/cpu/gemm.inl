// C[M,N] = sum_k A[m,k] B[n,k] for operands with any strides, and an epilogue for each finished row
// segment. Laid out after BLIS (Van Zee, van de Geijn, "BLIS: A Framework for Rapidly Instantiating
// BLAS Functionality", 2015): C is cut into tiles, one task each; a task packs panels of A and B,
// widening 16-bit elements on the way, and a micro-kernel multiplies them out of registers.
//
// The sum over k is taken in blocks, each from zero, then added to the tile: the order is the same
// whatever the tiles and threads, so results are reproducible, and the two levels keep rounding
// errors small for long sums. Short batches, where the products cost little and where PyTorch's
// matrix-vector routines add up in many lanes, have shorter blocks: as accurate as those.

// Element (i, k) of an operand; i is a row of A or a column of B.
template <class T>
struct Operand {
  const T* data;
  int64_t stride, k_stride;
};

template <class A>
struct Gemm {
  using V = Vec<A>;
  static constexpr int kRows = kMicroRows, kCols = kMicroVectors * V::width;
  static constexpr int64_t kMaxTileRows = 16 * kRows, kMaxTileCols = 8 * kCols;
  static constexpr int64_t depth_of_block(int64_t M) { return M <= 16 ? 32 : 256; }
  // Below this many multiplications per thread, starting a thread costs more than it saves.
  static constexpr int64_t kMinTask = 32 * 1024;

  // to[k * R + i] = operand(i0 + i, k0 + k), zero beyond `rows`; panel after panel of R rows.
  template <int R, class T>
  static void pack(const Operand<T>& from, int64_t i0, int64_t rows, int64_t k0, int64_t depth,
                   A* to) {
    for (int64_t panel = 0; panel < rows; panel += R, to += R * depth) {
      const int64_t filled = std::min<int64_t>(R, rows - panel);
      const T* base = from.data + (i0 + panel) * from.stride + k0 * from.k_stride;
      if (filled < R) std::memset(to, 0, sizeof(A) * R * depth);
      if (from.stride == 1) {
        for (int64_t k = 0; k < depth; ++k) {
          const T* row = base + k * from.k_stride;
          for (int64_t i = 0; i < filled; ++i) to[k * R + i] = static_cast<A>(row[i]);
        }
      } else {
        for (int64_t i = 0; i < filled; ++i) {
          const T* row = base + i * from.stride;
          for (int64_t k = 0; k < depth; ++k)
            to[k * R + i] = static_cast<A>(row[k * from.k_stride]);
        }
      }
    }
  }

  // c[kRows][kCols] (+)= a[depth][kRows]^T b[depth][kCols], c with row stride ldc.
  static void micro_kernel(int64_t depth, const A* a, const A* b, A* c, int64_t ldc,
                           bool accumulate) {
    typename V::type sum[kRows][kMicroVectors] = {};
    for (int64_t k = 0; k < depth; ++k, a += kRows, b += kCols) {
      typename V::type column[kMicroVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kMicroVectors; ++v) column[v] = V::load(b + v * V::width);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
        for (int v = 0; v < kMicroVectors; ++v) sum[i][v] += a[i] * column[v];
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kMicroVectors; ++v) {
        A* to = c + i * ldc + v * V::width;
        V::store(to, accumulate ? V::load(to) + sum[i][v] : sum[i][v]);
      }
    }
  }

  // Calls epilogue(m, n, count, values) once for each row m and segment [n, n + count) of C.
  template <class T, class Epilogue>
  static void run(int64_t M, int64_t N, int64_t K, const Operand<T>& a, const Operand<T>& b,
                  const Epilogue& epilogue) {
    if (M == 0 || N == 0) return;
    const auto round_up = [](int64_t n, int64_t to) { return (n + to - 1) / to * to; };
    const auto tiles = [](int64_t n, int64_t tile) { return (n + tile - 1) / tile; };
    int64_t tile_rows = std::min(kMaxTileRows, round_up(M, kRows));
    int64_t tile_cols = std::min(kMaxTileCols, round_up(N, kCols));
    const int64_t threads = thread_count(), max_depth = depth_of_block(M);
    while (tiles(M, tile_rows) * tiles(N, tile_cols) < 2 * threads && tile_cols > kCols)
      tile_cols = round_up(tile_cols / 2, kCols);
    const int64_t across = tiles(N, tile_cols), tasks = tiles(M, tile_rows) * across;
    const int64_t task_cost = std::max<int64_t>(tile_rows * tile_cols * K, 1);

    parallel_for(
        0, tasks, std::max<int64_t>(kMinTask / task_cost, 1), [&](int64_t begin, int64_t end) {
          const int64_t a_size = tile_rows * max_depth, b_size = tile_cols * max_depth;
          A* a_panels =
              static_cast<A*>(scratch(sizeof(A) * (a_size + b_size + tile_rows * tile_cols)));
          A *b_panels = a_panels + a_size, *c = b_panels + b_size;
          for (int64_t task = begin; task < end; ++task) {
            const int64_t m0 = task / across * tile_rows, n0 = task % across * tile_cols;
            const int64_t rows = std::min(tile_rows, M - m0), cols = std::min(tile_cols, N - n0);
            if (K == 0) std::memset(c, 0, sizeof(A) * tile_rows * tile_cols);
            for (int64_t k = 0; k < K; k += max_depth) {
              const int64_t depth = std::min(max_depth, K - k);
              pack<kRows>(a, m0, rows, k, depth, a_panels);
              pack<kCols>(b, n0, cols, k, depth, b_panels);
              for (int64_t j = 0; j < cols; j += kCols)
                for (int64_t i = 0; i < rows; i += kRows)
                  micro_kernel(depth, a_panels + i * depth, b_panels + j * depth,
                               c + i * tile_cols + j, tile_cols, k > 0);
            }
            for (int64_t i = 0; i < rows; ++i) epilogue(m0 + i, n0, cols, c + i * tile_cols);
          }
        });
  }
};
