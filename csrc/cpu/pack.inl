// Operands and results of a product, and the operands' elements in the order in which a
// micro-kernel reads them, widened to the accumulation type on the way.

// Element (i, k) of an operand; i is a row of A or a column of B, k what is summed over.
template <class T>
struct Operand {
  static constexpr int64_t step = 1;  // elements in a step of k
  using type = T;
  const T* data;
  int64_t stride, k_stride;

  const T* at(int64_t i, int64_t k) const { return data + i * stride + k * k_stride; }
};

// Elements [n, n + columns) of rows [m, m + rows) of a product: element (m + i, n + j) is
// sums[i * stride + j].
template <class A>
struct Finished {
  int64_t m, n, rows, columns;
  A* sums;
  int64_t stride;
};

// Where a product goes: the matrix c, row after row, and what is to be done with each finished
// part of it, if anything; c may be null where `finish` keeps the results.
template <class A>
struct Product {
  A* c;
  void (*finish)(const void* context, const Finished<A>& part);
  const void* context;

  void store(int64_t N, const Finished<A>& part) const {
    if (finish) return finish(context, part);
    for (int64_t i = 0; i < part.rows; ++i)
      std::memcpy(c + (part.m + i) * N + part.n, part.sums + i * part.stride,
                  part.columns * sizeof(A));
  }
};

// Lines of an operand on their way into the second-level cache, a few at a time: many at once
// would hold up the loads of the products that run meanwhile.
class Ahead {
 public:
  Ahead() = default;
  // Rows or columns [i, i + count) of `from`, k in [k, k + depth); so many lines at each next()
  // that all have been called for after `calls` of them.
  template <class Operand>
  Ahead(const Operand& from, int64_t i, int64_t count, int64_t k, int64_t depth, int64_t calls) {
    if (count <= 0 || depth <= 0 || (from.k_stride != 1 && from.stride != 1)) return;
    constexpr int64_t kSize = sizeof(typename Operand::type);
    const bool along_k = from.k_stride == 1;
    depth *= Operand::step;
    const int64_t length = (along_k ? depth : count) * kSize;
    row_ = reinterpret_cast<const char*>(from.at(i, k));
    row_step_ = (along_k ? from.stride : from.k_stride) * kSize;
    lines_ = (reinterpret_cast<uintptr_t>(row_) % kLine + length + kLine - 1) / kLine;
    left_ = lines_ * (along_k ? count : depth);
    at_once_ = (left_ + calls - 1) / calls;
  }

  GDEXT_INLINE void next() {
    for (int64_t n = std::min(at_once_, left_); n > 0; --n) {
      __builtin_prefetch(row_ + line_ * kLine, 0, 2);
      --left_;
      if (++line_ == lines_) {
        line_ = 0;
        row_ += row_step_;
      }
    }
  }

 private:
  static constexpr int64_t kLine = 64;
  const char* row_ = nullptr;
  int64_t row_step_ = 0, lines_ = 0, line_ = 0, left_ = 0, at_once_ = 0;
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

  // R rows of A: one after the other, `row` apart, where neighbours in k lie side by side; else in
  // steps of k, to[k * R + r]. `row` is a multiple of the width; `to` has room for a vector more.
  template <class T>
  static bool by_rows(const Operand<T>& from) {
    return from.k_stride == 1;
  }
  template <class T>
  static void rows(const Operand<T>& from, int64_t i0, int R, int64_t k0, int64_t depth,
                   int64_t row, A* to) {
    if (by_rows(from)) {
      for (int r = 0; r < R; ++r)
        for (int64_t k = 0; k < depth; k += W)
          V::store(to + r * row + k, widen_some(from.at(i0 + r, k0 + k), depth - k));
    } else if (from.stride == 1) {
      for (int64_t k = 0; k < depth; ++k, to += R)
        for (int r = 0; r < R; r += W) V::store(to + r, widen_some(from.at(i0 + r, k0 + k), R - r));
    } else {
      for (int64_t k = 0; k < depth; ++k)
        for (int r = 0; r < R; ++r) *to++ = static_cast<A>(*from.at(i0 + r, k0 + k));
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
