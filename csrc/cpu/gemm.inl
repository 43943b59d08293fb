// C[M,N] = sum_k A[m,k] B[n,k] for operands with any strides. Laid out after BLIS (Van Zee, van de
// Geijn, "BLIS: A Framework for Rapidly Instantiating BLAS Functionality", 2015), except that
// nothing is packed ahead: each thread takes a rectangle of C and packs what it needs of A, in
// blocks that stay in its L2 cache, and of B, in panels just before their first use. Rows of A
// whose neighbours in k lie side by side are read where they are, and for few rows B too, if it can
// be.
//
// The sum over k is taken in blocks, each from zero, then added to the product so far: the order is
// the same whatever the panels and threads, so results are reproducible, and the two levels keep
// rounding errors small for long sums. Short batches, where PyTorch's matrix-vector routines add up
// in many lanes, have shorter blocks: as accurate as those.

// E: what is packed and multiplied, float, double or pairs of bfloat16 (vec.h); K counts them.
template <class E>
class Gemm {
  using A = sum_t<E>;
  using Kernels = GemmKernels<E>;
  static constexpr int64_t W = Vec<A>::width, kRows = kMicroRows, kCols = kMicroVectors * W;
  static constexpr int64_t kMaxDepth = 256, kShortDepth = 32, kShortBatch = 16;
  // How much of A and B a thread keeps packed: rows, panels, and blocks of k of the latter.
  static constexpr int64_t kBlockRows = 12 * kRows, kBlockPanels = 32, kBlocksKept = 2;
  // Up to so many rows B is read where it is; up to such a depth, its packed panels all stay in a
  // cache together.
  static constexpr int64_t kDirectRows = 4 * kRows, kFlatDepth = 64;
  // Up to such a depth C is all the traffic: it is written in few rows at a time, and B, which
  // stays in the first cache, read where it is.
  static constexpr int64_t kThinDepth = 8, kThinRows = 2;

 public:
  template <class OA, class OB>
  static void run(int64_t M, int64_t N, int64_t K, const OA& a, const OB& b, Product<A> product) {
    if (M == 0 || N == 0) return;
    const auto [down, across] = partition(M, N, K, b.stride == 1);
    const int64_t height = ceil_div(M, down), panels = ceil_div(N, kCols);
    const int64_t blocks =
        std::max<int64_t>(ceil_div(K, M <= kShortBatch ? kShortDepth : kMaxDepth), 1);

    Rectangle whole{};
    whole.N = N;
    whole.K = K;
    whole.depth = std::max<int64_t>(ceil_div(ceil_div(K, blocks), W), 1) * W;
    const bool thin = K <= kThinDepth && height > kDirectRows;
    whole.direct =
        std::is_same_v<typename OB::type, E> && b.stride == 1 && (height <= kDirectRows || thin);
    whole.flat = whole.depth <= kFlatDepth;
    // Rows in blocks of equal height, each of equal tiles, rather than a low one at the end.
    const int64_t row_blocks = whole.flat ? 1 : ceil_div(height, kBlockRows);
    const int64_t tiles = ceil_div(ceil_div(height, row_blocks), kRows);
    whole.tile_rows = thin ? kThinRows : ceil_div(ceil_div(height, row_blocks), tiles);
    whole.block_rows = tiles * whole.tile_rows;
    whole.blocks_kept = row_blocks > 1 ? std::min(blocks, kBlocksKept) : 1;
    whole.keeps_panels = !whole.direct && (whole.flat || row_blocks > 1);
    whole.panels_kept = whole.keeps_panels ? std::min(ceil_div(panels, across), kBlockPanels) : 1;

    const int64_t rows_size =
        reads_rows(a) ? 0 : (whole.flat ? whole.tile_rows : whole.block_rows) * whole.depth + W;
    const int64_t task_size =
        rows_size + whole.blocks_kept * whole.panels_kept * kCols * whole.depth;
    const bool sums_needed = product.c == nullptr && blocks > 1;
    const int64_t packed_bytes = (sizeof(E) * across * down * task_size + 63) / 64 * 64;
    char* const memory =
        static_cast<char*>(scratch(packed_bytes + (sums_needed ? sizeof(A) * M * N : 0)));
    E* const workspace = reinterpret_cast<E*>(memory);
    if (sums_needed) product.c = reinterpret_cast<A*>(memory + packed_bytes);

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

  struct Partition {
    int64_t down, across;
  };
  // Into how many rectangles C is cut, down its columns and across its rows: as many as there are
  // threads, of the shape that has least to read and pack. Packing columns that have to be
  // transposed costs about twice as much. For short sums C is what counts, and rows are left whole:
  // the processor calls for lines beyond the end of a part.
  static Partition partition(int64_t M, int64_t N, int64_t K, bool cheap_columns) {
    const int64_t tasks = std::clamp<int64_t>(M * N * K / kMinTask, 1, thread_count());
    const int64_t most_down = ceil_div(M, kRows),
                  most_across = std::max<int64_t>(N / (4 * kCols), 1);
    Partition best{1, 1};
    int64_t least = 0;
    for (int64_t down = 1; down <= std::min(tasks, most_down); ++down) {
      const int64_t across = std::min(tasks / down, most_across);
      const int64_t packed = cheap_columns && K <= kFlatDepth
                                 ? across
                                 : across * M + down * N * (cheap_columns ? 1 : 2);
      const int64_t gain = down * across - best.down * best.across;
      if (gain > 0 || (gain == 0 && packed < least)) {
        best = {down, across};
        least = packed;
      }
    }
    return best;
  }

  // What a thread computes of C, and its room for packed rows and panels.
  struct Rectangle {
    int64_t N, K;
    int64_t depth;                     // of a block of k
    bool direct;                       // B's panels are read where they are
    bool flat;                         // one pass over C for each block of k
    bool keeps_panels;                 // of B, packed once for all blocks of rows
    int64_t tile_rows, block_rows;     // of A's panels, and of as many as are kept
    int64_t blocks_kept, panels_kept;  // how many blocks of k, of how many panels, are kept of B
    int64_t m_begin, m_end, p_begin, p_end;
    E *rows, *panels;
  };
  // One block of k, for some panels of a rectangle.
  struct Step {
    int64_t p_begin, p_end;
    int64_t k, depth;
    int64_t kept;  // the block's place among those kept
    bool first, last;
  };
  struct Panel {
    const E* data;
    int64_t next, step;
  };
  // Some rows of A, `row` apart, or in steps of k.
  struct Rows {
    const E* data;
    bool by_rows;
    int64_t row;
  };

  static Step step_at(const Rectangle& r, Step s, int64_t k, int64_t kept) {
    s.k = k;
    s.depth = std::min(r.depth, r.K - k);
    s.kept = kept;
    s.first = k == 0;
    s.last = k + s.depth >= r.K;
    return s;
  }

  template <class OA, class OB>
  static void rectangle(const Rectangle& r, const OA& a, const OB& b, const Product<A>& product) {
    Step s{};
    for (s.p_begin = r.p_begin; s.p_begin < r.p_end; s.p_begin = s.p_end) {
      s.p_end = std::min(r.p_end, s.p_begin + kBlockPanels);
      const int64_t pass = r.blocks_kept * r.depth;
      for (int64_t k = 0; k == 0 || k < r.K; k += pass) {
        if (r.flat)
          flat(r, step_at(r, s, k, 0), a, b, product);
        else
          deep(r, s, k, std::min(r.K, k + pass), a, b, product);
      }
    }
  }

  // Long sums: a panel of B, in the L1 cache, is multiplied with all rows of a block of A, in the
  // L2 cache. For a block of rows, whose sums stay in the L2 cache too, some blocks of k are taken
  // one after the other; B's panels are packed for the first block of rows and kept for the others.
  template <class OA, class OB>
  static void deep(const Rectangle& r, Step s, int64_t k_begin, int64_t k_end, const OA& a,
                   const OB& b, const Product<A>& product) {
    for (int64_t m0 = r.m_begin; m0 < r.m_end; m0 += r.block_rows) {
      const int64_t m1 = std::min(m0 + r.block_rows, r.m_end);
      const int64_t tiles = ceil_div(m1 - m0, r.tile_rows);
      for (int64_t k = k_begin, kept = 0; k == k_begin || k < k_end; k += r.depth, ++kept) {
        s = step_at(r, s, k, kept);
        const int64_t calls = tiles * ceil_div(s.depth, Kernels::kLine);
        // Meanwhile, what the next block of rows, or of k, will pack.
        const bool same_rows = k + r.depth < k_end;
        const int64_t m_next = same_rows ? m0 : m1 < r.m_end ? m1 : r.m_begin;
        const int64_t k_next = same_rows ? k + r.depth : m1 < r.m_end ? k_begin : k_end;
        Ahead ahead[2] = {};
        ahead[0] = Ahead(a, m_next, std::min(r.block_rows, r.m_end - m_next), k_next,
                         std::min(r.depth, r.K - k_next), calls * (s.p_end - s.p_begin));
        for (int64_t p = s.p_begin; p < s.p_end; ++p) {
          if (m0 == r.m_begin) {
            pack_panel(r, s, p, b);
            const bool last = p + 1 == s.p_end;
            const int64_t p_next = last ? s.p_begin : p + 1, k_panel = last ? k + r.depth : k;
            if (!r.direct && k_panel < r.K)
              ahead[1] = Ahead(b, p_next * kCols, std::min(kCols, r.N - p_next * kCols), k_panel,
                               std::min(r.depth, r.K - k_panel), calls);
          }
          const Panel panel = panel_at(r, s, p, b);
          for (int64_t m = m0; m < m1; m += r.tile_rows) {
            const int64_t height = std::min(r.tile_rows, m1 - m);
            const Rows rows =
                rows_at(r, s, m, height, a, r.rows + (m - m0) * r.depth, p == s.p_begin);
            multiply(r, s, m, height, rows, p, panel, product, ahead);
          }
        }
      }
    }
  }

  // Short sums: all panels of B stay in a cache, and C is written row after row.
  template <class OA, class OB>
  static void flat(const Rectangle& r, const Step& s, const OA& a, const OB& b,
                   const Product<A>& product) {
    for (int64_t p = s.p_begin; p < s.p_end; ++p) pack_panel(r, s, p, b);
    // Panels that are whole, and whose sums go where they belong, are left to one call.
    const int64_t whole = s.last && product.finish ? s.p_begin : std::min(s.p_end, r.N / kCols);
    for (int64_t m = r.m_begin; m < r.m_end; m += r.tile_rows) {
      const int64_t height = std::min(r.tile_rows, r.m_end - m);
      const Rows rows = rows_at(r, s, m, height, a, r.rows, true);
      int64_t p = s.p_begin;
      const auto multiply_whole = [&](int64_t vectors) {
        const int64_t across = vectors / kMicroVectors, tiles = (whole - p) / across;
        const Panel panel = panel_at(r, s, p, b);
        Kernels::choose(height, vectors, rows.by_rows)(
            tiles, s.depth, rows.data, rows.row, panel.data, across * panel.next, panel.step,
            product.c + m * r.N + p * kCols, r.N, !s.first, nullptr);
        p += tiles * across;
      };
      if (r.direct) multiply_whole(Kernels::wide(static_cast<int>(height)));
      multiply_whole(kMicroVectors);
      for (; p < s.p_end; ++p)
        multiply(r, s, m, height, rows, p, panel_at(r, s, p, b), product, nullptr);
    }
  }

  // Whether rows of A are read where they are.
  template <class OA>
  static bool reads_rows(const OA& a) {
    return std::is_same_v<typename OA::type, E> && a.k_stride == 1;
  }
  // Rows of A: where they are, or at `room`, packed there if they are not yet.
  template <class OA>
  static Rows rows_at(const Rectangle& r, const Step& s, int64_t m, int64_t height, const OA& a,
                      E* room, bool pack) {
    if constexpr (std::is_same_v<typename OA::type, E>) {
      if (reads_rows(a)) return {a.at(m, s.k), true, a.stride};
    }
    if (pack) Pack<E>::rows(a, m, height, s.k, s.depth, r.depth, room);
    return {room, Pack<E>::by_rows(a), r.depth};
  }

  static E* packed_panel(const Rectangle& r, const Step& s, int64_t p) {
    return r.panels +
           (r.keeps_panels ? s.kept * r.panels_kept + p - s.p_begin : 0) * kCols * r.depth;
  }
  static bool is_direct(const Rectangle& r, int64_t p) {
    return r.direct && (p + 1) * kCols <= r.N;
  }
  template <class OB>
  static void pack_panel(const Rectangle& r, const Step& s, int64_t p, const OB& b) {
    if (!is_direct(r, p))
      Pack<E>::columns(b, p * kCols, std::min(kCols, r.N - p * kCols), s.k, s.depth, kCols,
                       packed_panel(r, s, p));
  }
  template <class OB>
  static Panel panel_at(const Rectangle& r, const Step& s, int64_t p, const OB& b) {
    if constexpr (std::is_same_v<typename OB::type, E>) {
      if (is_direct(r, p)) return {b.at(p * kCols, s.k), kCols, b.k_stride};
    }
    return {packed_panel(r, s, p), kCols * r.depth, kCols};
  }

  // One tile of C.
  static void multiply(const Rectangle& r, const Step& s, int64_t m, int64_t height,
                       const Rows& rows, int64_t p, const Panel& panel, const Product<A>& product,
                       Ahead* ahead) {
    const int64_t n = p * kCols, columns = std::min(kCols, r.N - n);
    const int64_t vectors = columns <= W ? 1 : kMicroVectors;
    const auto kernel = Kernels::choose(height, vectors, rows.by_rows);
    A* const c = product.c + m * r.N + n;
    if (columns == vectors * W && !(s.last && product.finish)) {
      kernel(1, s.depth, rows.data, rows.row, panel.data, 0, panel.step, c, r.N, !s.first, ahead);
      return;
    }
    alignas(64) A sums[kRows * kCols];
    kernel(1, s.depth, rows.data, rows.row, panel.data, 0, panel.step, sums, kCols, false, ahead);
    if (!s.first)
      for (int64_t i = 0; i < height; ++i)
        for (int64_t j = 0; j < columns; ++j)
          sums[i * kCols + j] = c[i * r.N + j] + sums[i * kCols + j];
    const Finished<A> tile{m, n, height, columns, sums, kCols};
    if (s.last)
      product.store(r.N, tile);
    else
      Product<A>{product.c, nullptr, nullptr}.store(r.N, tile);
  }
};
