// How the whole-network step keeps its matrices, so that no product packs anything. P =
// Panel::width.
//
//   weights        [O/P panels][I][P]   a panel holds P output units, unit beside unit
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
};

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// The share of `part` of `parts` in [0, n), which differ by one at most.
inline Range share(int64_t n, int64_t part, int64_t parts) {
  return {n * part / parts, n * (part + 1) / parts};
}

// A layer's parameters, and their momenta (null where there are none), as the kernels keep them.
template <class A>
struct PackedLayer {
  int64_t I, O, panels;
  A *w, *mw;  // [panels][I][P]
  A *b, *mb;  // [panels][P]; w/o bias b is zeros that are never updated
};

// packed[(o / P)][i][o % P] = from[o, i] for the panels of `range`, zero beyond O.
template <class T, class A>
void pack_panels(const T* from, int64_t row_stride, int64_t col_stride, int64_t I, int64_t O,
                 Range range, A* packed) {
  constexpr int P = Panel<A>::width;
  A block[P * P];
  for (int64_t p = range.begin; p < range.end; ++p) {
    const int64_t units = std::min<int64_t>(P, O - p * P);
    for (int64_t i0 = 0; i0 < I; i0 += P) {
      const int64_t count = std::min<int64_t>(P, I - i0);
      A* to = packed + (p * I + i0) * P;
      if (count < P || units < P) std::memset(block, 0, sizeof(block));
      for (int64_t o = 0; o < units; ++o) {
        const T* row = from + (p * P + o) * row_stride + i0 * col_stride;
        for (int64_t i = 0; i < count; ++i) block[o * P + i] = static_cast<A>(row[i * col_stride]);
      }
      if (count == P) {
        transpose(P, block, P, to, P);
      } else {
        for (int64_t i = 0; i < count; ++i)
          for (int64_t o = 0; o < P; ++o) to[i * P + o] = block[o * P + i];
      }
    }
  }
}

// The way back.
template <class T, class A>
void unpack_panels(const A* packed, int64_t I, int64_t O, Range range, T* to, int64_t row_stride,
                   int64_t col_stride) {
  constexpr int P = Panel<A>::width;
  A block[P * P];
  for (int64_t p = range.begin; p < range.end; ++p) {
    const int64_t units = std::min<int64_t>(P, O - p * P);
    for (int64_t i0 = 0; i0 < I; i0 += P) {
      const int64_t count = std::min<int64_t>(P, I - i0);
      const A* from = packed + (p * I + i0) * P;
      if (count == P) {
        transpose(P, from, P, block, P);
      } else {
        for (int64_t i = 0; i < count; ++i)
          for (int64_t o = 0; o < P; ++o) block[o * P + i] = from[i * P + o];
      }
      for (int64_t o = 0; o < units; ++o) {
        T* row = to + (p * P + o) * row_stride + i0 * col_stride;
        for (int64_t i = 0; i < count; ++i) row[i * col_stride] = static_cast<T>(block[o * P + i]);
      }
    }
  }
}
