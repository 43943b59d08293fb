// Products of bfloat16 by pairs (vec.h): operands whose k counts pairs of neighbours in k, and how
// they are packed. A last element without a neighbour has a zero beside it.

struct PairOperand {
  static constexpr int64_t step = 2;
  using type = bfloat16;
  const bfloat16* data;
  int64_t stride, k_stride;
  int64_t K;  // elements, not pairs

  const bfloat16* at(int64_t i, int64_t k) const { return data + i * stride + 2 * k * k_stride; }
  uint32_t pair(int64_t i, int64_t k) const {
    const bfloat16* from = at(i, k);
    return from[0].bits | (2 * k + 1 < K ? uint32_t{from[k_stride].bits} << 16 : 0);
  }
  // Pairs k, k + 1, ... of row i, where neighbours in k lie side by side: a vector's, or as many as
  // there are.
  Vec<uint32_t>::type along_k(int64_t i, int64_t k) const {
    return load_pairs(at(i, k), std::max<int64_t>(K - 2 * k, 0));
  }
  // Pair k of rows i, i + 1, ..., which lie side by side: a vector's, or `count`.
  Vec<uint32_t>::type across(int64_t i, int64_t k, int64_t count) const {
    const bfloat16* from = at(i, k);
    return zip_pairs(from, 2 * k + 1 < K ? from + k_stride : nullptr, count);
  }
};

// As in pack.inl.
template <>
struct Pack<uint32_t> {
  using V = Vec<uint32_t>;
  static constexpr int W = V::width;

  static void columns(const PairOperand& from, int64_t i0, int64_t columns, int64_t k0,
                      int64_t depth, int C, uint32_t* to) {
    for (int i = 0; i < C; i += W) {
      const int64_t count = std::clamp<int64_t>(columns - i, 0, W);
      if (from.stride == 1) {
        for (int64_t k = 0; k < depth; ++k)
          V::store(to + k * C + i, count > 0 ? from.across(i0 + i, k0 + k, count) : V::type{});
      } else if (from.k_stride == 1) {
        for (int64_t k = 0; k < depth; k += W) {
          V::type row[W];
#pragma GCC unroll 16
          for (int j = 0; j < W; ++j)
            row[j] = j < count ? from.along_k(i0 + i + j, k0 + k) : V::type{};
          transpose_vectors<uint32_t>(row);
          const int64_t filled = std::min<int64_t>(W, depth - k);
          for (int64_t j = 0; j < filled; ++j) V::store(to + (k + j) * C + i, row[j]);
        }
      } else {
        for (int64_t k = 0; k < depth; ++k)
          for (int j = 0; j < W; ++j)
            to[k * C + i + j] = j < count ? from.pair(i0 + i + j, k0 + k) : 0;
      }
    }
  }

  static bool by_rows(const PairOperand& from) { return from.k_stride == 1; }
  static void rows(const PairOperand& from, int64_t i0, int R, int64_t k0, int64_t depth,
                   int64_t row, uint32_t* to) {
    if (by_rows(from)) {
      for (int r = 0; r < R; ++r)
        for (int64_t k = 0; k < depth; k += W)
          V::store(to + r * row + k, from.along_k(i0 + r, k0 + k));
    } else if (from.stride == 1) {
      for (int64_t k = 0; k < depth; ++k, to += R) V::store(to, from.across(i0, k0 + k, R));
    } else {
      for (int64_t k = 0; k < depth; ++k)
        for (int r = 0; r < R; ++r) *to++ = from.pair(i0 + r, k0 + k);
    }
  }
};
static_assert(kMicroRows <= Pack<uint32_t>::W);
