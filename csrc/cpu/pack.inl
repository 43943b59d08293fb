// Operands and results of a product, and the operands' elements in the order in which a
// micro-kernel reads them, widened to the accumulation type on the way.

// Element (i, k) of an operand; i is a row of A or a column of B, k what is summed over.
template <class T>
struct Operand {
  const T* data;
  int64_t stride, k_stride;

  const T* at(int64_t i, int64_t k) const { return data + i * stride + k * k_stride; }
};

// Where a product goes: the matrix c, row after row, and what is to be done with each finished
// segment [n, n + count) of row m, if anything; c may be null where `finish` keeps the results.
template <class A>
struct Product {
  A* c;
  void (*finish)(const void* context, int64_t m, int64_t n, int64_t count, A* sums);
  const void* context;

  void store(int64_t m, int64_t n, int64_t count, int64_t N, A* sums) const {
    if (finish)
      finish(context, m, n, count, sums);
    else
      std::memcpy(c + m * N + n, sums, count * sizeof(A));
  }
};

// Below this many multiplications per thread, starting a thread costs more than it saves.
constexpr int64_t kMinTask = 128 * 1024;

template <class A>
struct Pack {
  using V = Vec<A>;
  static constexpr int W = V::width;

  // Columns of B: to[k * C + i] = operand(i0 + i, k0 + k), zero for i in [columns, C); C is a
  // multiple of the width.
  template <class T>
  static void columns(const Operand<T>& from, int64_t i0, int64_t columns, int64_t k0,
                      int64_t depth, int C, A* to) {
    if (from.stride == 1) {
      for (int64_t k = 0; k < depth; ++k)
        for (int i = 0; i < C; i += W)
          V::store(to + k * C + i, widen_some(from.at(i0 + i, k0 + k), columns - i));
      return;
    }
    for (int i = 0; i < C; i += W) {
      const int64_t count = std::min<int64_t>(W, columns - i);
      int64_t k = 0;
      if (from.k_stride == 1)
        for (; k + W <= depth; k += W)
          block(from.at(i0 + i, k0 + k), from.stride, count, to + k * C + i, C);
      for (; k < depth; ++k)
        for (int j = 0; j < W; ++j)
          to[k * C + i + j] = j < count ? static_cast<A>(*from.at(i0 + i + j, k0 + k)) : A(0);
    }
  }

  // R rows of A. Where neighbours in k lie side by side, they stay so, in chunks of a vector:
  // to[(k / W * R + r) * W + k % W]; elsewhere to[k * R + r]. `to` has room for a vector more.
  template <class T>
  static bool keeps_chunks(const Operand<T>& from) {
    return from.k_stride == 1 && W > 1;
  }
  template <class T>
  static void rows(const Operand<T>& from, int64_t i0, int R, int64_t k0, int64_t depth, A* to) {
    if (keeps_chunks(from)) {
      for (int64_t k = 0; k < depth; k += W)
        for (int r = 0; r < R; ++r, to += W)
          V::store(to, widen_some(from.at(i0 + r, k0 + k), depth - k));
    } else if (from.stride == 1) {
      for (int64_t k = 0; k < depth; ++k, to += R)
        for (int r = 0; r < R; r += W) V::store(to + r, widen_some(from.at(i0 + r, k0 + k), R - r));
    } else {
      for (int64_t k = 0; k < depth; ++k)
        for (int r = 0; r < R; ++r) *to++ = static_cast<A>(*from.at(i0 + r, k0 + k));
    }
  }

  // Calls elements (i, k) of `count` rows or columns, k in [begin, end), into the caches.
  template <class T>
  static void prefetch(const Operand<T>& from, int64_t i0, int64_t count, int64_t begin,
                       int64_t end) {
    constexpr int64_t kLine = 64 / sizeof(T);
    if (from.stride == 1) {
      for (int64_t k = begin; k < end; ++k)
        for (int64_t i = 0; i < count; i += kLine) __builtin_prefetch(from.at(i0 + i, k), 0, 2);
    } else if (from.k_stride == 1) {
      for (int64_t i = 0; i < count; ++i)
        for (int64_t k = begin; k < end; k += kLine) __builtin_prefetch(from.at(i0 + i, k), 0, 2);
    }
  }

 private:
  template <class T>
  GDEXT_INLINE static typename V::type widen_some(const T* from, int64_t n) {
    return n >= W ? V::widen(from) : n > 0 ? V::widen(from, n) : typename V::type{};
  }

  // to[k * C + i] = from[i * stride + k], k and i below the width, zero for i >= count
  template <class T>
  static void block(const T* from, int64_t stride, int64_t count, A* to, int C) {
    typename V::type row[W];
    if (count >= W) {
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) row[i] = V::widen(from + i * stride);
    } else {
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i)
        row[i] = i < count ? V::widen(from + i * stride) : typename V::type{};
    }
    transpose_vectors<A>(row);
#pragma GCC unroll 16
    for (int k = 0; k < W; ++k) V::store(to + k * C, row[k]);
  }
};
