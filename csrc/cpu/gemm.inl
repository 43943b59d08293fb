// C[M,N] = sum_k A[m,k] B[n,k] for operands with any strides. Laid out after BLIS (Van Zee, van de
// Geijn, "BLIS: A Framework for Rapidly Instantiating BLAS Functionality", 2015), except that
// nothing is packed ahead: each thread takes a rectangle of C and packs what it needs of A, in
// blocks that stay in its L2 cache, and of B, in panels just before their first use. Threads share
// out the columns first, so that each panel of B has one owner; rows of A are copied in whole
// vectors, which costs little beside the products. For few rows B is read where it is, if it can
// be.
//
// The sum over k is taken in blocks, each from zero, then added to the product so far: the order is
// the same whatever the panels and threads, so results are reproducible, and the two levels keep
// rounding errors small for long sums. Short batches, where PyTorch's matrix-vector routines add up
// in many lanes, have shorter blocks: as accurate as those.

template <class A>
class Gemm {
  using Kernels = GemmKernels<A>;
  static constexpr int64_t W = Vec<A>::width, kRows = kMicroRows, kCols = kMicroVectors * W;
  static constexpr int64_t kMaxDepth = 320, kShortDepth = 32, kShortBatch = 16;
  // How much of A and B a thread keeps packed, of one block of k.
  static constexpr int64_t kBlockRows = 10 * kRows, kBlockPanels = 32;
  // Up to so many rows B is read where it is; up to such a depth, its packed panels all stay in a
  // cache together.
  static constexpr int64_t kDirectRows = 4 * kRows, kFlatDepth = 64;

 public:
  template <class TA, class TB>
  static void run(int64_t M, int64_t N, int64_t K, const Operand<TA>& a, const Operand<TB>& b,
                  Product<A> product) {
    if (M == 0 || N == 0) return;
    const int64_t tasks = std::clamp<int64_t>(M * N * K / kMinTask, 1, thread_count());
    const int64_t across = std::clamp<int64_t>(N / (4 * kCols), 1, tasks);
    const int64_t down = std::clamp<int64_t>(tasks / across, 1, ceil_div(M, kRows));
    const int64_t height = ceil_div(M, down), panels = ceil_div(N, kCols);
    const int64_t blocks =
        std::max<int64_t>(ceil_div(K, M <= kShortBatch ? kShortDepth : kMaxDepth), 1);

    Rectangle whole{};
    whole.N = N;
    whole.K = K;
    whole.depth = std::max<int64_t>(ceil_div(ceil_div(K, blocks), W), 1) * W;
    whole.direct = std::is_same_v<TB, A> && b.stride == 1 && height <= kDirectRows;
    whole.keeps_panels = !whole.direct && (whole.depth <= kFlatDepth || height > kBlockRows);

    const int64_t rows_size =
        std::min(kBlockRows, ceil_div(height, kRows) * kRows) * whole.depth + W;
    const int64_t kept = std::min(ceil_div(panels, across), kBlockPanels);
    const int64_t task_size = rows_size + (whole.keeps_panels ? kept : 1) * kCols * whole.depth;
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
        r.p_begin = panels * j / across;
        r.p_end = panels * (j + 1) / across;
        r.rows = workspace + task * task_size;
        r.panels = r.rows + rows_size;
        rectangle(r, a, b, product);
      }
    });
  }

 private:
  static int64_t ceil_div(int64_t n, int64_t by) { return (n + by - 1) / by; }

  // What a thread computes of C, and its room for packed rows and panels.
  struct Rectangle {
    int64_t N, K;
    int64_t depth;      // of a block of k
    bool direct;        // B's panels are read where they are
    bool keeps_panels;  // all of a step's panels are packed before any gives way to another
    int64_t m_begin, m_end, p_begin, p_end;
    A *rows, *panels;
  };
  // One block of k, for some panels of a rectangle.
  struct Step {
    int64_t height;  // of A's panels: all the same, rather than a low one at the end
    bool chunks;     // how their rows are packed
    int64_t p_begin, p_end;
    int64_t k, depth;
    bool first, last;
  };
  struct Panel {
    const A* data;
    int64_t next, step;
  };

  template <class TA, class TB>
  static void rectangle(const Rectangle& r, const Operand<TA>& a, const Operand<TB>& b,
                        const Product<A>& product) {
    const int64_t rows = r.m_end - r.m_begin;
    Step s{};
    s.height = ceil_div(rows, ceil_div(rows, kRows));
    s.chunks = Pack<A>::keeps_chunks(a);
    for (s.p_begin = r.p_begin; s.p_begin < r.p_end; s.p_begin = s.p_end) {
      s.p_end = std::min(r.p_end, s.p_begin + kBlockPanels);
      for (s.k = 0; s.k == 0 || s.k < r.K; s.k += r.depth) {
        s.depth = std::min(r.depth, r.K - s.k);
        s.first = s.k == 0;
        s.last = s.k + s.depth >= r.K;
        if (r.depth <= kFlatDepth)
          flat(r, s, a, b, product);
        else
          deep(r, s, a, b, product);
      }
    }
  }

  // Long sums: a panel of B, in the L1 cache, is multiplied with all rows of a block of A, in the
  // L2 cache, while the next one is called in.
  template <class TA, class TB>
  static void deep(const Rectangle& r, const Step& s, const Operand<TA>& a, const Operand<TB>& b,
                   const Product<A>& product) {
    const int64_t block_rows = kBlockRows / s.height * s.height;
    for (int64_t m0 = r.m_begin; m0 < r.m_end; m0 += block_rows) {
      const int64_t m1 = std::min(m0 + block_rows, r.m_end);
      const bool packs = m0 == r.m_begin;
      for (int64_t p = s.p_begin; p < s.p_end; ++p) {
        if (packs) pack_panel(r, s, p, b);
        const int64_t next = (p + 1) * kCols;
        for (int64_t m = m0; m < m1; m += s.height) {
          const int64_t height = std::min(s.height, m1 - m), end = m + height;
          A* const rows = r.rows + (m - m0) * r.depth;
          if (p == s.p_begin) {
            Pack<A>::rows(a, m, height, s.k, s.depth, rows);
            Pack<A>::prefetch(a, end, std::min(height, m1 - end), s.k, s.k + s.depth);
          } else if (packs && !r.direct && p + 1 < s.p_end) {
            Pack<A>::prefetch(b, next, std::min(kCols, r.N - next),
                              s.k + s.depth * (m - m0) / (m1 - m0),
                              s.k + s.depth * (end - m0) / (m1 - m0));
          }
          multiply(r, s, m, height, rows, p, panel_at(r, s, p, b), product);
        }
      }
    }
  }

  // Short sums: all panels of B stay in a cache, and C is written row after row.
  template <class TA, class TB>
  static void flat(const Rectangle& r, const Step& s, const Operand<TA>& a, const Operand<TB>& b,
                   const Product<A>& product) {
    for (int64_t p = s.p_begin; p < s.p_end; ++p) pack_panel(r, s, p, b);
    // Panels that are whole, and whose sums go where they belong, are left to one call.
    const int64_t whole = s.last && product.finish ? s.p_begin : std::min(s.p_end, r.N / kCols);
    for (int64_t m = r.m_begin; m < r.m_end; m += s.height) {
      const int64_t height = std::min(s.height, r.m_end - m);
      Pack<A>::rows(a, m, height, s.k, s.depth, r.rows);
      int64_t p = s.p_begin;
      const auto multiply_whole = [&](int64_t vectors) {
        const int64_t across = vectors / kMicroVectors, tiles = (whole - p) / across;
        const Panel panel = panel_at(r, s, p, b);
        Kernels::choose(height, vectors, s.chunks)(tiles, s.depth, r.rows, panel.data,
                                                   across * panel.next, panel.step,
                                                   product.c + m * r.N + p * kCols, r.N, !s.first);
        p += tiles * across;
      };
      if (r.direct) multiply_whole(Kernels::wide(static_cast<int>(height)));
      multiply_whole(kMicroVectors);
      for (; p < s.p_end; ++p) multiply(r, s, m, height, r.rows, p, panel_at(r, s, p, b), product);
    }
  }

  static A* packed_panel(const Rectangle& r, const Step& s, int64_t p) {
    return r.panels + (r.keeps_panels ? p - s.p_begin : 0) * kCols * r.depth;
  }
  static bool is_direct(const Rectangle& r, int64_t p) {
    return r.direct && (p + 1) * kCols <= r.N;
  }
  template <class TB>
  static void pack_panel(const Rectangle& r, const Step& s, int64_t p, const Operand<TB>& b) {
    if (!is_direct(r, p))
      Pack<A>::columns(b, p * kCols, std::min(kCols, r.N - p * kCols), s.k, s.depth, kCols,
                       packed_panel(r, s, p));
  }
  template <class TB>
  static Panel panel_at(const Rectangle& r, const Step& s, int64_t p, const Operand<TB>& b) {
    if constexpr (std::is_same_v<TB, A>) {
      if (is_direct(r, p)) return {b.at(p * kCols, s.k), kCols, b.k_stride};
    }
    return {packed_panel(r, s, p), kCols * r.depth, kCols};
  }

  // One tile of C.
  static void multiply(const Rectangle& r, const Step& s, int64_t m, int64_t height, const A* rows,
                       int64_t p, const Panel& panel, const Product<A>& product) {
    const int64_t n = p * kCols, columns = std::min(kCols, r.N - n);
    const int64_t vectors = columns <= W ? 1 : kMicroVectors;
    const auto kernel = Kernels::choose(height, vectors, s.chunks);
    A* const c = product.c + m * r.N + n;
    if (columns == vectors * W && !(s.last && product.finish)) {
      kernel(1, s.depth, rows, panel.data, 0, panel.step, c, r.N, !s.first);
      return;
    }
    alignas(64) A sums[kRows * kCols];
    kernel(1, s.depth, rows, panel.data, 0, panel.step, sums, kCols, false);
    for (int64_t i = 0; i < height; ++i) {
      A* const row = sums + i * kCols;
      if (!s.first)
        for (int64_t j = 0; j < columns; ++j) row[j] = c[i * r.N + j] + row[j];
      if (s.last)
        product.store(m + i, n, columns, r.N, row);
      else
        std::memcpy(c + i * r.N, row, columns * sizeof(A));
    }
  }
};
