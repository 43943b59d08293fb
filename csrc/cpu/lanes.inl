// What the compilers' vector extension lacks, for V a Vec<A>::type; where the instruction set has
// no vectors, V is A itself and everything below holds for one lane.

template <class V>
struct Element {
  using type = std::remove_cv_t<std::remove_reference_t<decltype(std::declval<V&>()[0])>>;
};
template <>
struct Element<float> {
  using type = float;
};
template <>
struct Element<double> {
  using type = double;
};
template <class V>
using element_t = typename Element<V>::type;
// The unsigned integer of an element's size.
template <class V>
using integer_t = std::conditional_t<sizeof(element_t<V>) == 4, uint32_t, uint64_t>;
template <class V>
constexpr integer_t<V> kSignBit = integer_t<V>(1) << (8 * sizeof(integer_t<V>) - 1);
// As many of them as V has lanes.
template <class V>
using bits_t =
    std::conditional_t<std::is_arithmetic_v<V>, integer_t<V>, typename Vec<integer_t<V>>::type>;

template <class V>
inline V splat(element_t<V> value) {
  return value - V{};
}
template <class Mask, class V>
inline V select(Mask mask, V yes, V no) {
  return mask ? yes : no;
}

template <class To, class From>
inline To reinterpret(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}
template <class V>
inline bits_t<V> bits_of(V x) {
  return reinterpret<bits_t<V>>(x);
}
template <class V>
inline V abs(V x) {
  return reinterpret<V>(bits_of(x) & ~kSignBit<V>);
}
// |x| with the sign of `sign`
template <class V>
inline V copysign(V x, V sign) {
  return reinterpret<V>((bits_of(x) & ~kSignBit<V>) | (bits_of(sign) & kSignBit<V>));
}
// The nearer to zero of x and the number `bound`; NaN where x is NaN.
template <class V>
inline V at_most(V x, element_t<V> bound) {
  return select(x > bound, splat<V>(bound), x);
}
template <class V>
inline V at_least(V x, element_t<V> bound) {
  return select(x < bound, splat<V>(bound), x);
}

// 1 / x to 2^-14 at least, x a normal number.
template <class V>
inline V reciprocal_estimate(V x) {
#if GDEXT_VEC_BYTES == 64
  if constexpr (std::is_same_v<V, Vec<float>::type>) return _mm512_rcp14_ps(x);
#endif
  return element_t<V>(1) / x;
}

// All lanes of x as op(op(x0, x1), ...), by halves.
template <class A, class Op>
inline A fold(typename Vec<A>::type x, const Op& op) {
  A lane[Vec<A>::width];
  Vec<A>::store(lane, x);
#pragma GCC unroll 8
  for (int half = Vec<A>::width / 2; half > 0; half /= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < half; ++i) lane[i] = op(lane[i], lane[i + half]);
  }
  return lane[0];
}

// Elements [at, at + width) of an array, as lanes of A whatever their type.
template <class A>
struct Whole {
  using V = typename Vec<A>::type;
  int64_t at;

  template <class T>
  V load(const T* from, A = A(0)) const {
    if constexpr (std::is_same_v<T, A>) {
      return Vec<A>::load(from + at);
    } else {
      A lane[Vec<A>::width];
      for (int i = 0; i < Vec<A>::width; ++i) lane[i] = static_cast<A>(from[at + i]);
      return Vec<A>::load(lane);
    }
  }
  template <class T>
  void store(T* to, V x) const {
    if constexpr (std::is_same_v<T, A>) {
      Vec<A>::store(to + at, x);
    } else {
      A lane[Vec<A>::width];
      Vec<A>::store(lane, x);
      for (int i = 0; i < Vec<A>::width; ++i) to[at + i] = static_cast<T>(lane[i]);
    }
  }
};

// Elements [at, at + count), fewer than a vector has; the other lanes are `padding`, and are not
// stored.
template <class A>
struct Part {
  using V = typename Vec<A>::type;
  int64_t at;
  int count;

  template <class T>
  V load(const T* from, A padding = A(0)) const {
    A lane[Vec<A>::width];
    for (int i = 0; i < Vec<A>::width; ++i)
      lane[i] = i < count ? static_cast<A>(from[at + i]) : padding;
    return Vec<A>::load(lane);
  }
  template <class T>
  void store(T* to, V x) const {
    A lane[Vec<A>::width];
    Vec<A>::store(lane, x);
    for (int i = 0; i < count; ++i) to[at + i] = static_cast<T>(lane[i]);
  }
};

// f(Whole or Part) over [begin, end): whole vectors, then what is left.
template <class A, class F>
inline void for_each_lanes(int64_t begin, int64_t end, const F& f) {
  constexpr int kWidth = Vec<A>::width;
  for (; begin + kWidth <= end; begin += kWidth) f(Whole<A>{begin});
  if (begin < end) f(Part<A>{begin, static_cast<int>(end - begin)});
}
