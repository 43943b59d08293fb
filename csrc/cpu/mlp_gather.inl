// The batch on its way into the first product: rows chosen by `order`, bytes scaled, columns that
// are zero in every sample left out, laid out in panels.

// One source of samples: element i of sample n as a number, rounded to T.
template <class T, class Source>
struct Samples {
  using A = acc_t<T>;
  const Source* data;
  int64_t row_stride;
  A scale, shift;

  const Source* row(int64_t n) const { return data + n * row_stride; }
  A value(Source from) const {
    if constexpr (std::is_same_v<Source, uint8_t>)
      return static_cast<A>(static_cast<T>(scale * static_cast<A>(from) + shift));
    else
      return static_cast<A>(from);
  }
  static bool is_zero(Source from) {
    if constexpr (std::is_arithmetic_v<Source>)
      return from == Source(0);
    else
      return static_cast<float>(from) == 0.0f;
  }
  // Whether zero bytes are zero inputs.
  bool zeros_vanish() const { return !std::is_same_v<Source, uint8_t> || shift == A(0); }
};

// Calls f(Samples) for the inputs of `args`.
template <class T, class F>
GDEXT_INLINE void with_samples(const MlpArgs& args, const F& f) {
  using A = acc_t<T>;
  if (args.input_bytes)
    f(Samples<T, uint8_t>{static_cast<const uint8_t*>(args.inputs), args.input_row_stride,
                          static_cast<A>(args.input_scale), static_cast<A>(args.input_shift)});
  else
    f(Samples<T, T>{static_cast<const T*>(args.inputs), args.input_row_stride, A(1), A(0)});
}

// seen[i] |= sample i is not zero, over the samples order[begin..end). Nearly dense samples are not
// looked through: nothing would be won.
template <class S>
void mark_columns(const S& samples, const int64_t* order, Range range, int64_t I, uint8_t* seen) {
  std::fill(seen, seen + I, uint8_t{0});
  for (int64_t b = range.begin; b < range.end; ++b) {
    const auto* row = samples.row(order[b]);
    for (int64_t i = 0; i < I; ++i) seen[i] |= !S::is_zero(row[i]);
    if (b == range.begin) {
      int64_t zeros = 0;
      for (int64_t i = 0; i < I; ++i) zeros += !seen[i];
      if (!samples.zeros_vanish() || zeros < I / 8) {
        std::fill(seen, seen + I, uint8_t{1});
        return;
      }
    }
  }
}

// rows[k] = the k-th i with seen[i]; how many there are. `rows` has room for I.
inline int64_t list_columns(const uint8_t* seen, int64_t I, int32_t* rows) {
  int64_t count = 0;
  for (int64_t i = 0; i < I;) {
    uint64_t eight = 1;
    if (i + 8 <= I) std::memcpy(&eight, seen + i, sizeof(eight));
    const int64_t end = std::min<int64_t>(i + 8, I);
    if (!eight) i = end;
    for (; i < end; ++i) {
      rows[count] = static_cast<int32_t>(i);
      count += seen[i];
    }
  }
  return count;
}

// x[k / P][b][k % P] = sample order[b], column row(k), for the samples of `range`.
template <class A, class S>
void gather_samples(const S& samples, const int64_t* order, Range range, const Input<A>& in, A* x) {
  constexpr int P = Panel<A>::width;
  for (int64_t b = range.begin; b < range.end; ++b) {
    const auto* row = samples.row(order[b]);
    for (int64_t k = 0; k < in.K; k += P) {
      const int64_t count = std::min<int64_t>(P, in.K - k);
      A* to = x + (k / P * in.B + b) * P;
      if (in.rows)
        for (int64_t j = 0; j < count; ++j) to[j] = samples.value(row[in.rows[k + j]]);
      else
        for (int64_t j = 0; j < count; ++j) to[j] = samples.value(row[k + j]);
    }
  }
}

// The units of a relu layer, h[i / P][b][i % P], that are not zero in every sample; h itself where
// leaving out the others would not pay.
template <class A>
Input<A> live_units(const A* h, int64_t B, int64_t I, uint8_t* seen, int32_t* rows, A* x) {
  constexpr int P = Panel<A>::width;
  using Bits = std::conditional_t<sizeof(A) == 4, uint32_t, uint64_t>;
  for (int64_t i = 0; i < I; i += P) {
    Bits any[P] = {}, bits[P];
    for (int64_t b = 0; b < B; ++b) {
      std::memcpy(bits, h + (i / P * B + b) * P, sizeof(bits));
      for (int j = 0; j < P; ++j) any[j] |= bits[j];
    }
    for (int64_t j = 0; j < std::min<int64_t>(P, I - i); ++j) seen[i + j] = any[j] != 0;
  }
  const int64_t K = list_columns(seen, I, rows);
  if (K > I - I / 8) return {h, nullptr, B, I};
  for (int64_t k = 0; k < K; ++k) {
    const A* from = h + place_of<A>(rows[k], B);
    A* to = x + place_of<A>(k, B);
    for (int64_t b = 0; b < B; ++b) to[b * P] = from[b * P];
  }
  return {x, rows, B, K};
}
