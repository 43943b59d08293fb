// The backward products of a layer for batches of at most kSmallBatch samples, which are bound by
// the traffic of w: w is read once for dx and for its own update. dx is a dot product along the
// units o, which lie beside one another in a panel.

constexpr int64_t kSmallBatch = 8;

// How many rows of w are taken at once: as many as their sums fit into registers beside the rest.
template <bool kDx>
constexpr int small_rows(int B) {
  const int sums_of_row = kDx ? B : kMicroVectors;
  int rows = 8;
  while (rows > 1 && rows * sums_of_row > kVectorRegisters / 2) rows /= 2;
  return rows;
}

// For k in [k0, k0 + kRows): dx[k / P][b][k % P] = sum_o w[o, row(k)] dz[b,o] over `panels`, with
// kDx; update(at, sums) as in weight_gradient, with kUpdate.
template <class A, int B, int kRows, bool kDx, bool kUpdate, class Update>
GDEXT_INLINE void small_backward_rows(const Input<A>& in, const WeightLayout<A>& layout, const A* w,
                                      const A* dz, int64_t k0, Range panels, A* dx,
                                      const Update& update) {
  constexpr int P = Panel<A>::width;
  using V = Vec<A>;
  constexpr int kSums = kRows * B <= 1   ? 1
                        : kRows * B <= 2 ? 2
                        : kRows * B <= 4 ? 4
                        : kRows * B <= 8 ? 8
                                         : 16;
  typename V::type dot[kDx ? kSums : 1] = {};
  const A* x = in.x + k0 / P * B * P + k0 % P;
  int64_t at[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) at[r] = layout.at(panels.begin, in.row(k0 + r));
  for (int64_t p = panels.begin; p < panels.end; ++p) {
    const int64_t to_panel = (p - panels.begin) * layout.kBlock;
    typename V::type gradient[kRows][kMicroVectors] = {};
    if constexpr (kDx) {
#pragma GCC unroll 4
      for (int v = 0; v < kMicroVectors; ++v) {
        typename V::type weights[kRows];
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) weights[r] = V::load(w + at[r] + to_panel + v * V::width);
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
    } else {
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) {
        typename V::type dz_b[kMicroVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kMicroVectors; ++v)
          dz_b[v] = V::load(dz + (p * B + b) * P + v * V::width);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const A factor = x[b * P + r];
#pragma GCC unroll 4
          for (int v = 0; v < kMicroVectors; ++v) gradient[r][v] += factor * dz_b[v];
        }
      }
    }
    if constexpr (kUpdate) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) update(at[r] + to_panel, gradient[r]);
    }
  }
  if constexpr (kDx) {
    A sums[kSums];
    lane_sums<A, kSums>(dot, sums);
    for (int b = 0; b < B; ++b)
      std::memcpy(dx + (k0 / P * B + b) * P + k0 % P, sums + b * kRows, kRows * sizeof(A));
  }
}

template <class A, bool kDx, bool kUpdate, class Update, int B = kSmallBatch>
void small_backward(const Input<A>& in, const WeightLayout<A>& layout, const A* w, const A* dz,
                    Range columns, Range panels, A* dx, const Update& update) {
  if constexpr (B > 1) {
    if (in.B != B)
      return small_backward<A, kDx, kUpdate, Update, B - 1>(in, layout, w, dz, columns, panels, dx,
                                                            update);
  }
  constexpr int kRows = std::min(small_rows<kDx>(B), Panel<A>::width);
  int64_t k = columns.begin;
  const auto rows = [&](auto count) {
    small_backward_rows<A, B, count.value, kDx, kUpdate>(in, layout, w, dz, k, panels, dx, update);
    k += count.value;
  };
  const std::integral_constant<int, 1> one;
  while (k < columns.end && k % kRows) rows(one);
  while (k + kRows <= columns.end) rows(std::integral_constant<int, kRows>{});
  while (k < columns.end) rows(one);
}
