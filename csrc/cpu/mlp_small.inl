// The backward product of a layer for batches of at most kSmallBatch samples, which is bound by the
// traffic of w: w is read once for dx and for its own update. dx is a dot product along the units
// o, which lie beside one another in a panel.

constexpr int64_t kSmallBatch = 8;

// How many rows of w are taken at once: as many as their sums fit into registers beside the rest.
constexpr int dot_rows(int B) {
  int rows = 8;
  while (rows > 1 && rows * B > kVectorRegisters / 2) rows /= 2;
  return rows;
}

// dx[k / P][b][k % P] = sum_o w[o, row(k)] dz[b,o] over `panels`, for k in [k0, k0 + kRows); with
// kUpdate, update(p, row, sums) as in weight_gradient.
template <class A, int B, int kRows, bool kUpdate, class Update>
GDEXT_INLINE void small_backward_rows(const Input<A>& in, A* w, int64_t I, const A* dz, int64_t k0,
                                      Range panels, A* dx, const Update& update) {
  constexpr int P = Panel<A>::width;
  using V = Vec<A>;
  constexpr int kSums = kRows * B <= 1   ? 1
                        : kRows * B <= 2 ? 2
                        : kRows * B <= 4 ? 4
                        : kRows * B <= 8 ? 8
                                         : 16;
  typename V::type dot[kSums] = {};
  const A* x = in.x + k0 / P * B * P + k0 % P;
  int64_t row[kRows];
  for (int r = 0; r < kRows; ++r) row[r] = in.row(k0 + r);
  for (int64_t p = panels.begin; p < panels.end; ++p) {
    typename V::type gradient[kRows][kMicroVectors] = {};
#pragma GCC unroll 4
    for (int v = 0; v < kMicroVectors; ++v) {
      typename V::type weights[kRows];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) weights[r] = V::load(w + (p * I + row[r]) * P + v * V::width);
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) {
        const auto dz_v = V::load(dz + (p * B + b) * P + v * V::width);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          dot[b * kRows + r] += weights[r] * dz_v;
          if constexpr (kUpdate) gradient[r][v] += x[b * P + r] * dz_v;
        }
      }
    }
    if constexpr (kUpdate) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) update(p, row[r], gradient[r]);
    }
  }
  A sums[kSums];
  lane_sums<A, kSums>(dot, sums);
  for (int b = 0; b < B; ++b)
    std::memcpy(dx + (k0 / P * B + b) * P + k0 % P, sums + b * kRows, kRows * sizeof(A));
}

template <class A, int B, bool kUpdate, class Update>
void small_backward_of(const Input<A>& in, A* w, int64_t I, const A* dz, Range columns,
                       Range panels, A* dx, const Update& update) {
  constexpr int kRows = std::min(dot_rows(B), Panel<A>::width);
  int64_t k = columns.begin;
  const auto one = [&] {
    small_backward_rows<A, B, 1, kUpdate>(in, w, I, dz, k, panels, dx, update);
    ++k;
  };
  while (k < columns.end && k % kRows) one();
  for (; k + kRows <= columns.end; k += kRows)
    small_backward_rows<A, B, kRows, kUpdate>(in, w, I, dz, k, panels, dx, update);
  while (k < columns.end) one();
}

template <class A, bool kUpdate, class Update, int B = kSmallBatch>
void small_backward(const Input<A>& in, A* w, int64_t I, const A* dz, Range columns, Range panels,
                    A* dx, const Update& update) {
  if constexpr (B > 1) {
    if (in.B != B)
      return small_backward<A, kUpdate, Update, B - 1>(in, w, I, dz, columns, panels, dx, update);
  }
  small_backward_of<A, B, kUpdate>(in, w, I, dz, columns, panels, dx, update);
}
