// The three products of a layer on the layouts of mlp_layout.inl. Sums over more than kDepth terms
// are taken in blocks of kDepth, each from zero, and added up: the order does not depend on the
// threads.

constexpr int64_t kDepth = 256;
constexpr int kVectorRegisters = kMicroRows == 12 ? 32 : 16;

// A layer's input, the columns that are not zero in every sample: x[k / P][b][k % P], k in [0, K),
// meets row rows[k] of the weights (null: row k).
template <class A>
struct Input {
  const A* x;
  const int32_t* rows;
  int64_t B, K;

  int64_t row(int64_t k) const { return rows ? rows[k] : k; }
  // The columns that meet the weight rows of `range`.
  Range columns(Range range) const {
    if (!rows) return range;
    return {std::lower_bound(rows, rows + K, range.begin) - rows,
            std::lower_bound(rows, rows + K, range.end) - rows};
  }
  // Calls f(row) for the weight rows of `range` that no column of it meets.
  template <class F>
  void for_each_other_row(Range range, const F& f) const {
    int64_t k = columns(range).begin;
    for (int64_t row = range.begin; row < range.end; ++row) {
      if (k < K && rows[k] == row)
        ++k;
      else
        f(row);
    }
  }
};

// How many panels a tile of `rows` rows takes at once: short tiles need more, to have enough sums
// in flight.
constexpr int panels_of_tile(int rows) {
  int panels = 4;
  while (panels > 1 && panels * kMicroVectors * (rows + 1) + 1 > kVectorRegisters) --panels;
  return panels;
}

// Calls f(std::integral_constant<int, rows>) for the run-time value `rows` in [1, kRows].
template <int kRows = kMicroRows, class F>
GDEXT_INLINE void with_rows(int64_t rows, const F& f) {
  if constexpr (kRows > 1) {
    if (rows != kRows) return with_rows<kRows - 1>(rows, f);
  }
  f(std::integral_constant<int, kRows>{});
}

// Cuts [begin, end) into the fewest pieces of at most kRows, equal to within one.
template <int kRows = kMicroRows, class F>
GDEXT_INLINE void for_each_tile(int64_t begin, int64_t end, const F& f) {
  const int64_t tiles = (end - begin + kRows - 1) / kRows;
  for (int64_t t = 0; t < tiles; ++t) {
    const Range tile = share(end - begin, t, tiles);
    with_rows<kRows>(tile.size(), [&](auto rows) { f(begin + tile.begin, rows); });
  }
}

// As for_each_tile, each tile within a panel of `range`.
template <class A, class F>
GDEXT_INLINE void for_each_tile_of_panels(Range range, const F& f) {
  constexpr int P = Panel<A>::width;
  for (int64_t begin = range.begin, end; begin < range.end; begin = end) {
    end = std::min(range.end, (begin / P + 1) * P);
    for_each_tile<std::min(kMicroRows, P)>(begin, end, f);
  }
}

// kRows x kPanels panels of sums, in registers.
template <class A, int kRows, int kPanels>
struct Tile {
  using V = Vec<A>;
  static constexpr int P = Panel<A>::width, vectors = kPanels * kMicroVectors;
  typename V::type sum[kRows][vectors] = {};

  // sum[r] += sum_k a[r * a_row + k * a_step] row(k) of each panel, where row(k) begins at
  // place(k).
  template <class Place>
  GDEXT_INLINE void multiply(int64_t depth, const A* a, int64_t a_row, int64_t a_step,
                             const A* const (&panel)[kPanels], const Place& place) {
    for (int64_t k = 0; k < depth; ++k) {
      const int64_t at = place(k);
      typename V::type column[vectors];
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v)
        column[v] = V::load(panel[v / kMicroVectors] + at + v % kMicroVectors * V::width);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const A factor = a[r * a_row + k * a_step];
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) sum[r][v] += factor * column[v];
      }
    }
  }

  GDEXT_INLINE void multiply(int64_t depth, const A* a, int64_t a_row, int64_t a_step,
                             const A* const (&panel)[kPanels]) {
    multiply(depth, a, a_row, a_step, panel, [](int64_t k) { return k * P; });
  }

  // sum[r] += what store() left in `from`
  GDEXT_INLINE void add(A* const (&from)[kPanels]) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v)
        sum[r][v] += V::load(from[v / kMicroVectors] + r * P + v % kMicroVectors * V::width);
    }
  }

  // to[panel][r * P], a panel's rows beside one another; `add`: to what is there.
  GDEXT_INLINE void store(A* const (&to)[kPanels], bool add) const {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) {
        A* at = to[v / kMicroVectors] + r * P + v % kMicroVectors * V::width;
        V::store(at, add ? V::load(at) + sum[r][v] : sum[r][v]);
      }
    }
  }
};

// z[p][b][:] (+)= sum_k x[b,k] w(p, row(k))[:] over the block of kDepth columns from k0 on, for
// kRows samples from b0 on and kPanels panels from p0 on; `add`: to what is there.
template <class A, int kRows, int kPanels, bool kListed>
void forward_tile(const Input<A>& in, const WeightLayout<A>& layout, const A* w, int64_t p0,
                  int64_t b0, int64_t k0, A* z) {
  constexpr int P = Panel<A>::width;
  Tile<A, kRows, kPanels> tile;
  for (int64_t k = k0; k < std::min(in.K, k0 + kDepth); k += P) {
    const A* panel[kPanels];
    for (int p = 0; p < kPanels; ++p) panel[p] = w + layout.at(p0 + p, kListed ? 0 : k);
    const int64_t depth = std::min<int64_t>(P, in.K - k);
    const A* const x = in.x + (k / P * in.B + b0) * P;
    if constexpr (kListed)
      tile.multiply(depth, x, P, 1, panel,
                    [&](int64_t j) { return layout.offset(in.rows[k + j]); });
    else
      tile.multiply(depth, x, P, 1, panel);
  }
  A* to[kPanels];
  for (int p = 0; p < kPanels; ++p) to[p] = z + ((p0 + p) * in.B + b0) * P;
  tile.store(to, k0 > 0);
}

// z = x w^T for `samples` and `panels`; epilogue(p, b, count, &z[p][b][0]) for each finished run of
// samples. A block of a panel stays in the first-level cache while the samples pass by it, and a
// block of samples in the second while the panels do.
template <class A, class Epilogue>
void forward_product(const Input<A>& in, const WeightLayout<A>& layout, const A* w, Range samples,
                     Range panels, A* z, const Epilogue& epilogue) {
  constexpr int64_t kSamples = 16 * kMicroRows;
  constexpr int kMost = panels_of_tile(1);
  for (int64_t b = samples.begin; b < samples.end; b += kSamples) {
    const int64_t end = std::min(samples.end, b + kSamples);
    for (int64_t p = panels.begin, taken; p < panels.end; p += taken) {
      taken = 1;
      for (int64_t k = 0; k < in.K || k == 0; k += kDepth) {
        for_each_tile(b, end, [&](int64_t b0, auto rows) {
          constexpr int R = rows.value, N = std::min(kMost, panels_of_tile(R));
          const bool several = end - b == R && panels.end - p >= N;
          taken = several ? N : 1;
          if (several && in.rows)
            forward_tile<A, R, N, true>(in, layout, w, p, b0, k, z);
          else if (several)
            forward_tile<A, R, N, false>(in, layout, w, p, b0, k, z);
          else if (in.rows)
            forward_tile<A, R, 1, true>(in, layout, w, p, b0, k, z);
          else
            forward_tile<A, R, 1, false>(in, layout, w, p, b0, k, z);
        });
      }
      for (int64_t done = p; done < p + taken; ++done)
        epilogue(done, b, end - b, z + (done * in.B + b) * Panel<A>::width);
    }
  }
}

// Some panels of dz meet a panel of x together, and a batch of more than kLongBatch samples is
// taken in blocks of that many: what is in use then stays in the second-level cache.
constexpr int64_t kLongBatch = 512, kPanelsAtOnce = 8;

// The terms of `samples` for the columns k of x, which lie within a panel, and panel p of dz, added
// to `sums`, [k][P], or with the batch's last handed to `update`. at: of each column, and of the
// `following` after them, its row of the panel.
template <class A, class Update>
void weight_gradient_block(const Input<A>& in, const A* dz, Range k, int64_t p, Range samples,
                           A* sums, const int64_t* at, int64_t following, const Update& update) {
  constexpr int P = Panel<A>::width;
  constexpr int64_t kSamples = 128, kShort = 16;
  for (int64_t b = samples.begin; b < samples.end; b += kSamples) {
    const int64_t depth = std::min(kSamples, samples.end - b);
    const A* const panel[1] = {dz + (p * in.B + b) * P};
    const bool last = b + depth == in.B;
    for_each_tile<std::min(kMicroRows, P)>(k.begin, k.end, [&](int64_t k0, auto rows) {
      const int64_t* const own = at + k0 - k.begin;
      if (last) {
        const int64_t ahead = depth > kShort ? 0 : rows.value;
#pragma GCC unroll 16
        for (int r = 0; r < rows.value; ++r)
          if (k0 + ahead + r < k.end + following) update.prefetch(own[ahead + r]);
      }
      Tile<A, rows.value, 1> tile;
      tile.multiply(depth, in.x + (k0 / P * in.B + b) * P + k0 % P, 1, P, panel);
      A* const to[1] = {sums + (k0 - k.begin) * P};
      if (!last) return tile.store(to, b > 0);
      if (b > 0) tile.add(to);
#pragma GCC unroll 16
      for (int r = 0; r < rows.value; ++r) update(own[r], tile.sum[r]);
    });
  }
}

// The sums that weight_gradient keeps from one block of samples to the next.
inline int64_t weight_gradient_sums(int64_t B, int64_t I, int64_t panels, int64_t width) {
  return B > kLongBatch ? std::min(panels, kPanelsAtOnce) * I * width : 0;
}

// dw[p][row(k)][:] = sum_b x[b,k] dz[p][b][:] for k in `columns`, handed row by row to
// update(at, sums): where the row begins in its weights, and one Panel of vectors. Of a panel of x
// and one of dz, so many samples are taken at once that they stay in the first-level cache for the
// tiles of the panel of x. The rows to be updated come from the second-level cache: a long sum
// calls for its own before it begins, a short one for those of the next. `room`:
// weight_gradient_sums.
template <class A, class Update>
void weight_gradient(const Input<A>& in, const WeightLayout<A>& layout, const A* dz, Range columns,
                     Range panels, A* room, const Update& update) {
  constexpr int P = Panel<A>::width;
  for (int64_t first = panels.begin; first < panels.end; first += kPanelsAtOnce) {
    const Range some = {first, std::min(panels.end, first + kPanelsAtOnce)};
    for (int64_t b = 0; b < in.B; b += kLongBatch) {
      const Range samples = {b, std::min(in.B, b + kLongBatch)};
      for (int64_t k = columns.begin, end; k < columns.end; k = end) {
        end = std::min(columns.end, (k / P + 1) * P);  // a tile lies within a panel of x
        int64_t at[P + kMicroRows];
        const int64_t following = std::min<int64_t>(kMicroRows, columns.end - end);
        for (int64_t j = k; j < end + following; ++j) at[j - k] = layout.at(some.begin, in.row(j));
        for (int64_t p = some.begin; p < some.end; ++p) {
          alignas(64) A sums[P * P];
          A* const kept = room + ((p - some.begin) * columns.size() + k - columns.begin) * P;
          weight_gradient_block(in, dz, {k, end}, p, samples, in.B > kLongBatch ? kept : sums, at,
                                following, update);
          for (int64_t j = 0; j < end + following - k; ++j) at[j] += layout.kBlock;
        }
      }
    }
  }
}

// dx^T[b / P][i][b % P] = sum_o w[o,i] dz[b,o] over the units o of `panels`, for i in `columns`,
// with dz^T in dzt[b / P][o - first o][b % P].
template <class A>
void input_gradient(const WeightLayout<A>& layout, const A* w, const A* dzt, int64_t B, int64_t I,
                    int64_t O, Range columns, Range panels, A* dxt) {
  constexpr int P = Panel<A>::width;
  for (int64_t bp = 0; bp < Panel<A>::count(B); ++bp) {
    const A* columns_of_dz = dzt + bp * panels.size() * P * P;
    for_each_tile_of_panels<A>(columns, [&](int64_t i0, auto rows) {
      A* const to[1] = {dxt + (bp * I + i0) * P};
      constexpr int64_t kPanels = std::max<int64_t>(kDepth / P, 1);
      for (int64_t block = panels.begin; block < panels.end; block += kPanels) {
        Tile<A, rows.value, 1> tile;
        for (int64_t p = block; p < std::min(panels.end, block + kPanels); ++p) {
          const A* const panel[1] = {columns_of_dz + (p - panels.begin) * P * P};
          tile.multiply(std::min<int64_t>(P, O - p * P), w + layout.at(p, i0), P, 1, panel);
        }
        tile.store(to, block > panels.begin);
      }
    });
  }
}

// dz^T for input_gradient, zero for samples beyond B.
template <class A>
void transpose_gradient(const A* dz, int64_t B, Range panels, A* dzt) {
  constexpr int P = Panel<A>::width;
  for (int64_t bp = 0; bp < Panel<A>::count(B); ++bp) {
    for (int64_t p = panels.begin; p < panels.end; ++p) {
      const A* from = dz + (p * B + bp * P) * P;
      A rows[P * P];
      if ((bp + 1) * P > B) {
        const int64_t filled = (B - bp * P) * P;
        std::copy(from, from + filled, rows);
        std::fill(rows + filled, rows + P * P, A(0));
        from = rows;
      }
      transpose(P, from, P, dzt + (bp * panels.size() + p - panels.begin) * P * P, P);
    }
  }
}
