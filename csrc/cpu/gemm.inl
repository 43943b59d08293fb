// C[M,N] = sum_k A[m,k] B[n,k] for operands with any strides. Laid out after BLIS (Van Zee, van de
// Geijn, "BLIS: A Framework for Rapidly Instantiating BLAS Functionality", 2015), except that
// nothing is packed ahead: each thread takes a rectangle of C and packs what it needs of A (blocks
// that stay in its L2 cache) and of B (panels, just before their first use, so that they are in
// its L1 cache). Threads share out the columns first, so that each panel of B has one owner; rows
// of A are copied in whole vectors, which costs little beside the products.
//
// The sum over k is taken in blocks, each from zero, then added to the product so far: the order is
// the same whatever the panels and threads, so results are reproducible, and the two levels keep
// rounding errors small for long sums. Short batches, where PyTorch's matrix-vector routines add up
// in many lanes, have shorter blocks: as accurate as those.

template <class A>
struct Gemm {
  using V = Vec<A>;
  static constexpr int64_t W = V::width, kRows = kMicroRows, kCols = kMicroVectors * W;
  static constexpr int64_t kMaxDepth = 320, kShortDepth = 32, kShortBatch = 16;
  // How much of A and B a thread keeps packed for one block of k.
  static constexpr int64_t kBlockRows = 40 * kRows, kBlockPanels = 32;
  // B is packed for more panels of A than this, where it could be read as it is.
  static constexpr int64_t kDirectPanels = 4;

  template <class TA, class TB>
  static void run(int64_t M, int64_t N, int64_t K, const Operand<TA>& a, const Operand<TB>& b,
                  Product<A> product) {
    if (M == 0 || N == 0) return;
    const int64_t most = M <= kShortBatch ? kShortDepth : kMaxDepth;
    const int64_t blocks = std::max<int64_t>(ceil_div(K, most), 1);
    const int64_t panels = ceil_div(N, kCols);
    const int64_t tasks = std::clamp<int64_t>(M * N * K / kMinTask, 1, thread_count());
    const int64_t across = std::clamp<int64_t>(N / (4 * kCols), 1, tasks);
    const int64_t down = std::clamp<int64_t>(tasks / across, 1, ceil_div(M, kRows));

    Rectangle whole{};
    whole.N = N;
    whole.K = K;
    whole.depth = std::max<int64_t>(ceil_div(ceil_div(K, blocks), W), 1) * W;
    const int64_t height = ceil_div(M, down), width = ceil_div(panels, across);
    whole.direct = std::is_same_v<TB, A> && b.stride == 1 && height <= kDirectPanels * kRows;
    const int64_t rows_size =
        std::min(kBlockRows, ceil_div(height, kRows) * kRows) * whole.depth + W;
    const int64_t panels_size =
        (height <= kBlockRows ? 1 : std::min(width, kBlockPanels)) * kCols * whole.depth;
    const int64_t task_size = rows_size + panels_size;
    const bool sums_needed = product.c == nullptr && blocks > 1;
    A* const workspace = static_cast<A*>(
        scratch(sizeof(A) * (across * down * task_size + (sums_needed ? M * N : 0))));
    if (sums_needed) product.c = workspace + across * down * task_size;

    parallel_for(0, across * down, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t i = task / across, j = task % across;
        Rectangle r = whole;
        r.m_begin = M * i / down;
        r.m_end = M * (i + 1) / down;
        r.panel_begin = panels * j / across;
        r.panel_end = panels * (j + 1) / across;
        r.rows = workspace + task * task_size;
        r.panels = r.rows + rows_size;
        rectangle(r, a, b, product);
      }
    });
  }

 private:
  static int64_t ceil_div(int64_t n, int64_t by) { return (n + by - 1) / by; }

  // What a thread computes of C, and its packed rows and panels.
  struct Rectangle {
    int64_t N, K, depth;
    bool direct;  // B's panels are read where they are
    int64_t m_begin, m_end, panel_begin, panel_end;
    A *rows, *panels;
  };

  template <class TA, class TB>
  static void rectangle(const Rectangle& r, const Operand<TA>& a, const Operand<TB>& b,
                        const Product<A>& product) {
    const int64_t height = r.m_end - r.m_begin;
    // Panels of equal height, rather than a flat one at the end.
    const int64_t R = ceil_div(height, ceil_div(height, kRows)), block_rows = kBlockRows / R * R;
    Tile tile{};
    tile.chunks = Pack<A>::keeps_chunks(a);
    for (int64_t p0 = r.panel_begin; p0 < r.panel_end; p0 += kBlockPanels) {
      const int64_t p1 = std::min(r.panel_end, p0 + kBlockPanels);
      for (int64_t k = 0; k == 0 || k < r.K; k += r.depth) {
        tile.depth = std::min(r.depth, r.K - k);
        tile.first = k == 0;
        tile.last = k + r.depth >= r.K;
        for (int64_t m0 = r.m_begin; m0 < r.m_end; m0 += block_rows) {
          const int64_t m1 = std::min(m0 + block_rows, r.m_end);
          const bool packs = m0 == r.m_begin && !r.direct;
          for (int64_t p = p0; p < p1; ++p) {
            A* const packed = r.panels + (height <= kBlockRows ? 0 : p - p0) * kCols * r.depth;
            const int64_t n = p * kCols, cols = std::min<int64_t>(kCols, r.N - n);
            if (r.direct && cols == kCols) {
              tile.b = reinterpret_cast<const A*>(b.at(n, k));
              tile.b_step = b.k_stride;
            } else {
              if (m0 == r.m_begin) Pack<A>::columns(b, n, cols, k, tile.depth, kCols, packed);
              tile.b = packed;
              tile.b_step = kCols;
            }
            tile.n = n;
            tile.cols = cols;
            for (int64_t m = m0; m < m1; m += R) {
              A* const rows = r.rows + (m - m0) * r.depth;
              const int64_t height = std::min(R, m1 - m);
              if (p == p0) {
                Pack<A>::rows(a, m, height, k, tile.depth, rows);
                Pack<A>::prefetch(a, m + R, std::min(R, m1 - m - R), k, 0, tile.depth);
              } else if (packs && p + 1 < p1) {
                Pack<A>::prefetch(b, n + kCols, std::min(kCols, r.N - n - kCols), k,
                                  tile.depth * (m - m0) / (m1 - m0),
                                  tile.depth * (m + R - m0) / (m1 - m0));
              }
              tile.m = m;
              tile.rows = static_cast<int>(height);
              tile.a = rows;
              multiply(tile, r.N, product);
            }
          }
        }
      }
    }
  }

  struct Tile {
    int64_t depth;
    bool first, last, chunks;  // of the blocks of k; how `a` is packed
    int64_t m, n;
    int rows;
    int64_t cols;
    const A *a, *b;
    int64_t b_step;
  };

  static void multiply(const Tile& t, int64_t N, const Product<A>& product) {
    const int vectors = t.cols <= W ? 1 : kMicroVectors;
    const Kernel kernel = choose(t.rows, vectors, t.chunks);
    A* const c = product.c + t.m * N + t.n;
    if (!(t.last && product.finish) && t.cols == vectors * W) {
      for (int i = 0; i < t.rows; ++i) {
        __builtin_prefetch(c + i * N, 1);
        __builtin_prefetch(c + i * N + t.cols - 1, 1);
      }
      kernel(t.depth, t.a, t.b, t.b_step, c, N, !t.first);
      return;
    }
    alignas(64) A sums[kRows * kCols];
    kernel(t.depth, t.a, t.b, t.b_step, sums, kCols, false);
    for (int i = 0; i < t.rows; ++i) {
      A* const row = sums + i * kCols;
      if (!t.first)
        for (int64_t j = 0; j < t.cols; ++j) row[j] = c[i * N + j] + row[j];
      if (t.last)
        product.store(t.m + i, t.n, t.cols, N, row);
      else
        std::memcpy(c + i * N, row, t.cols * sizeof(A));
    }
  }

  // c (+)= the product of a packed panel of R rows and one of B, Q vectors wide, rows b_step apart.
  using Kernel = void (*)(int64_t depth, const A* a, const A* b, int64_t b_step, A* c, int64_t ldc,
                          bool accumulate);
  template <int R, int Q, bool kChunks>
  static void kernel(int64_t depth, const A* a, const A* b, int64_t b_step, A* c, int64_t ldc,
                     bool accumulate) {
    MicroTile<A, R, Q> tile;
    tile.clear();
    if constexpr (kChunks) {
      for (int64_t k = 0; k < depth; k += W)
        tile.multiply(std::min<int64_t>(W, depth - k), a + k * R, W, 1, b + k * b_step, b_step);
    } else {
      tile.multiply(depth, a, 1, R, b, b_step);
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
  template <int Q, bool kChunks, int... r>
  static Kernel choose_rows(int rows, std::integer_sequence<int, r...>) {
    static constexpr Kernel all[] = {kernel<r + 1, Q, kChunks>...};
    return all[rows - 1];
  }
  static Kernel choose(int rows, int vectors, bool chunks) {
    constexpr auto all = std::make_integer_sequence<int, kRows>{};
    if (chunks)
      return vectors == 1 ? choose_rows<1, true>(rows, all)
                          : choose_rows<kMicroVectors, true>(rows, all);
    return vectors == 1 ? choose_rows<1, false>(rows, all)
                        : choose_rows<kMicroVectors, false>(rows, all);
  }
};
