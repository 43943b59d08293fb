// How the whole-network step keeps its matrices, so that no product packs anything. P =
// Panel::width.
//
//   weights        [O/P panels][rows][P]   a panel holds P output units, unit beside unit
//   activations    [units/P panels][B][P]
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
  // The rows from one panel of [I][P] to the next. Were their distance a multiple of 4096 bytes,
  // the same row of all panels would have one place in the first-level cache, and a load from a
  // panel would wait for the store to the panel before, which the processor takes for the same
  // address.
  static constexpr int64_t rows(int64_t I) {
    constexpr int64_t kPage = std::max<int64_t>(4096 / (width * sizeof(A)), 1);
    return I % kPage == 0 ? I + kPage / 2 : I;
  }
};

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// The share of `part` of `parts` in [0, n), which differ by one at most.
inline Range share(int64_t n, int64_t part, int64_t parts) {
  return {n * part / parts, n * (part + 1) / parts};
}

// to[i][o] = from[o, i] for a block of P x P; rows and columns beyond `units` and `inputs` are not
// there, and become zeros.
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

// f(o, i, units, inputs, place in the packed weights) for each block of the panels of `range`.
template <class A, class F>
void for_each_block(int64_t I, int64_t O, int64_t rows, Range range, const F& f) {
  constexpr int P = Panel<A>::width;
  for (int64_t p = range.begin; p < range.end; ++p)
    for (int64_t i = 0; i < I; i += P)
      f(p * P, i, std::min<int64_t>(P, O - p * P), std::min<int64_t>(P, I - i), (p * rows + i) * P);
}

// packed[o / P][i][o % P] = from[o, i] for the panels of `range`, zero beyond O; and the way back.
template <class T, class A>
void pack_panels(const T* from, int64_t row_stride, int64_t col_stride, int64_t I, int64_t O,
                 int64_t rows, Range range, A* packed) {
  for_each_block<A>(I, O, rows, range,
                    [&](int64_t o, int64_t i, int64_t units, int64_t inputs, int64_t at) {
                      pack_block(from + o * row_stride + i * col_stride, row_stride, col_stride,
                                 units, inputs, packed + at);
                    });
}
template <class T, class A>
void unpack_panels(const A* packed, int64_t I, int64_t O, int64_t rows, Range range, T* to,
                   int64_t row_stride, int64_t col_stride) {
  for_each_block<A>(I, O, rows, range,
                    [&](int64_t o, int64_t i, int64_t units, int64_t inputs, int64_t at) {
                      unpack_block(packed + at, units, inputs, to + o * row_stride + i * col_stride,
                                   row_stride, col_stride);
                    });
}
