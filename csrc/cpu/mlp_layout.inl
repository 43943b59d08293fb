// How the whole-network step keeps its matrices, so that no product packs anything. P =
// Panel::width.
//
//   weights        [parts][I / 4P blocks][O/P panels of the part][4P + 4][P]
//   activations    [units/P panels][B][P]
//
// A panel holds P output units, unit beside unit, a row of it the weights of one input.
//
// Each of the three products then reads one operand as rows of P (its vectors) and broadcasts
// elements of the other, which lie within a few cache lines:
//   z  = x w^T   vectors: rows of w     broadcast: x, along a panel's row
//   dw = dz^T x  vectors: rows of dz    broadcast: x, down a panel's column
//   dx = dz w    vectors: rows of dz^T  broadcast: w, along a panel's row;  gives dx^T
// Columns beyond the last unit are zero in weights and in dz.

template <class A>
struct Panel {
  using V = Vec<A>;
  static constexpr int vectors = kMicroVectors, width = vectors * V::width;
  static constexpr int64_t count(int64_t units) { return (units + width - 1) / width; }
};

// Where the first sample of unit `unit` lies in activations of B samples; the others follow, P
// apart.
template <class A>
int64_t place_of(int64_t unit, int64_t B) {
  constexpr uint64_t P = Panel<A>::width;
  const auto i = static_cast<uint64_t>(unit);
  return static_cast<int64_t>(i / P) * (B * P) + static_cast<int64_t>(i % P);
}

// Where the weights of a layer, their momentum or gradient lie, as far as one part meets them.
//
// Each part's lie together (those of a narrow layer that is not split, mlp.inl, are for all), and
// rows that are near each other lie near each other in all of its panels. Were panels whole and
// beside one another, a pass over a row would go from panel to panel in long equal strides, and a
// processor that foresees such strides would fetch the next part's panels from the core that is
// writing to them.
template <class A>
struct WeightLayout {
  static constexpr int P = Panel<A>::width;
  // Of a block; and from a panel's block to the next panel's. Were that a multiple of 4096 bytes,
  // the same row of all panels would have one place in the first-level cache. A layer of few inputs
  // leaves most of its blocks untouched.
  static constexpr int64_t kRows = 4 * P, kBlock = (kRows + 4) * P;

  int64_t first, panels;  // the part's panels begin with number `first`

  // Of `rows` rows.
  int64_t size(int64_t rows) const { return (rows + kRows - 1) / kRows * panels * kBlock; }
  // From row 0 of a panel to row `row`.
  int64_t offset(int64_t row) const {
    const auto i = static_cast<uint64_t>(row);
    return static_cast<int64_t>(i / kRows) * (panels * kBlock) +
           static_cast<int64_t>(i % kRows) * P;
  }
  // From the part's weights to row `row` of panel `p`, [P].
  int64_t at(int64_t p, int64_t row) const { return offset(row) + (p - first) * kBlock; }
};

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// The share of `part` of `parts` in [0, n), which differ by one at most.
inline Range share(int64_t n, int64_t part, int64_t parts) {
  return {n * part / parts, n * (part + 1) / parts};
}

// to[i][o] = from[o, i] for a block of P x P; units beyond `units` become zeros, rows beyond
// `inputs` are left as they are.
template <class T, class A>
void pack_block(const T* from, int64_t row_stride, int64_t col_stride, int64_t units,
                int64_t inputs, A* to) {
  constexpr int P = Panel<A>::width;
  if constexpr (std::is_same_v<T, A>) {
    if (col_stride == 1 && units == P && inputs == P) return transpose(P, from, row_stride, to, P);
  }
  for (int64_t i = 0; i < inputs; ++i)
    for (int64_t o = 0; o < P; ++o)
      to[i * P + o] = o < units ? static_cast<A>(from[o * row_stride + i * col_stride]) : A(0);
}
template <class T, class A>
void unpack_block(const A* from, int64_t units, int64_t inputs, T* to, int64_t row_stride,
                  int64_t col_stride) {
  constexpr int P = Panel<A>::width;
  if constexpr (std::is_same_v<T, A>) {
    if (col_stride == 1 && units == P && inputs == P) return transpose(P, from, P, to, row_stride);
  }
  for (int64_t o = 0; o < units; ++o)
    for (int64_t i = 0; i < inputs; ++i)
      to[o * row_stride + i * col_stride] = static_cast<T>(from[i * P + o]);
}

// f(o, i, units, inputs) for each P x P of the panels of `range`.
template <class A, class F>
void for_each_block(int64_t I, int64_t O, Range range, const F& f) {
  constexpr int P = Panel<A>::width;
  for (int64_t p = range.begin; p < range.end; ++p)
    for (int64_t i = 0; i < I; i += P)
      f(p * P, i, std::min<int64_t>(P, O - p * P), std::min<int64_t>(P, I - i));
}

// packed[layout.at(o / P, i) + o % P] = from[o, i] for the panels of `range`, zero beyond O; and
// the way back.
template <class T, class Layout, class A>
void pack_panels(const T* from, int64_t row_stride, int64_t col_stride, int64_t I, int64_t O,
                 Range range, const Layout& layout, A* packed) {
  for_each_block<A>(I, O, range, [&](int64_t o, int64_t i, int64_t units, int64_t inputs) {
    pack_block(from + o * row_stride + i * col_stride, row_stride, col_stride, units, inputs,
               packed + layout.at(o / Panel<A>::width, i));
  });
}
template <class T, class Layout, class A>
void unpack_panels(const A* packed, const Layout& layout, int64_t I, int64_t O, Range range, T* to,
                   int64_t row_stride, int64_t col_stride) {
  for_each_block<A>(I, O, range, [&](int64_t o, int64_t i, int64_t units, int64_t inputs) {
    unpack_block(packed + layout.at(o / Panel<A>::width, i), units, inputs,
                 to + o * row_stride + i * col_stride, row_stride, col_stride);
  });
}
