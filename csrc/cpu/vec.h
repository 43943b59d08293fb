// The vector type, on the compilers' own vector extension (GCC, Clang): + - * work lane by lane,
// and a * b + c becomes one fused multiply-add where the instruction set has it. This and the
// isa_*.cpp files are all that knows an instruction set. Included inside its namespace by
// kernels.inl.

template <class A>
struct Vec {
#if GDEXT_VEC_BYTES > 0
  typedef A type __attribute__((vector_size(GDEXT_VEC_BYTES)));
  static constexpr int width = GDEXT_VEC_BYTES / sizeof(A);
#else
  using type = A;
  static constexpr int width = 1;
#endif

  static type load(const A* from) {
    type v;
    std::memcpy(&v, from, sizeof(v));
    return v;
  }
  static void store(A* to, type v) { std::memcpy(to, &v, sizeof(v)); }

  // As numbers of type A, from width elements of any type; from the first n alone, the rest zero.
  template <class T>
  static type widen(const T* from) {
    if constexpr (std::is_same_v<T, A>) {
      return load(from);
    } else {
      return widen16(from);
    }
  }
  template <class T>
  static type widen(const T* from, int64_t n) {
#if GDEXT_VEC_BYTES == 64
    const uint32_t mask = (1u << n) - 1;
    if constexpr (std::is_same_v<T, float>) return _mm512_maskz_loadu_ps(mask, from);
    if constexpr (std::is_same_v<T, double>) return _mm512_maskz_loadu_pd(mask, from);
#endif
    T padded[width] = {};
    std::memcpy(padded, from, n * sizeof(T));
    return widen(padded);
  }

  // Rounded to width elements of any type, as that type's own conversion rounds.
  template <class T>
  static void narrow(T* to, type v) {
    if constexpr (std::is_same_v<T, A>)
      store(to, v);
    else
      narrow16(to, v);
  }
  // The first n alone.
  template <class T>
  static void narrow(T* to, type v, int64_t n) {
#if GDEXT_VEC_BYTES == 64
    const uint32_t mask = (1u << n) - 1;
    if constexpr (std::is_same_v<T, float>) return _mm512_mask_storeu_ps(to, mask, v);
    if constexpr (std::is_same_v<T, double>) return _mm512_mask_storeu_pd(to, mask, v);
#endif
    T all[width];
    narrow(all, v);
    std::memcpy(to, all, n * sizeof(T));
  }

 private:
#if GDEXT_VEC_BYTES > 0
  typedef uint16_t Half __attribute__((vector_size(GDEXT_VEC_BYTES / 2)));
  typedef uint32_t Full __attribute__((vector_size(GDEXT_VEC_BYTES)));
  static type widen16(const bfloat16* from) {
    Half bits;
    std::memcpy(&bits, from, sizeof(bits));
    return reinterpret_cast<type>(__builtin_convertvector(bits, Full) << 16);
  }
  static void narrow16(bfloat16* to, type v) {
    const Full bits = reinterpret_cast<Full>(v);
    const Full rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const Full result = (bits & 0x7fffffff) > 0x7f800000 ? Full{} + 0x7fc0 : rounded;
    const Half half = __builtin_convertvector(result, Half);
    std::memcpy(to, &half, sizeof(half));
  }
#endif
#if GDEXT_VEC_BYTES == 64
  static type widen16(const float16* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static void narrow16(float16* to, type v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
#elif GDEXT_VEC_BYTES == 32
  static type widen16(const float16* from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static void narrow16(float16* to, type v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
#elif GDEXT_VEC_BYTES > 0
  static type widen16(const float16* from) {
    type v;
    for (int i = 0; i < width; ++i) v[i] = static_cast<float>(from[i]);
    return v;
  }
  static void narrow16(float16* to, type v) {
    for (int i = 0; i < width; ++i) to[i] = static_cast<float16>(v[i]);
  }
#else
  template <class T>
  static type widen16(const T* from) {
    return static_cast<A>(*from);
  }
  template <class T>
  static void narrow16(T* to, type v) {
    *to = static_cast<T>(v);
  }
#endif
};

// The register tiles' sizes, so that sums, operands and one broadcast fit in 32 registers (AVX-512,
// NEON) or 16: a product by panels sums in kMicroRows x kMicroVectors vectors (micro.inl), one by
// rows in kDotRows x kDotColumns (dot.inl).
#if GDEXT_VEC_BYTES == 64 || GDEXT_VEC_BYTES == 16
constexpr int kMicroRows = 12, kMicroVectors = 2, kDotRows = 6, kDotColumns = 4;
#else
constexpr int kMicroRows = GDEXT_VEC_BYTES == 32 ? 6 : 4, kMicroVectors = 2;
constexpr int kDotRows = 2, kDotColumns = 4;
#endif

// What a product of two T's is summed in, one vector of sums for a vector of products. uint32_t
// stands for a pair of bfloat16, the first in the lower half: two products of a sum at once.
template <class T>
using sum_t = std::conditional_t<std::is_same_v<T, uint32_t>, float, T>;

// sum += a b
template <class V>
inline void multiply_add(V& sum, V a, V b) {
  sum += a * b;
}
#if defined(GDEXT_BF16_PAIRS)
// sum += a0 b0 + a1 b1, the products exact. The instruction takes subnormal numbers for zero.
inline void multiply_add(Vec<float>::type& sum, Vec<uint32_t>::type a, Vec<uint32_t>::type b) {
#if defined(GDEXT_BF16_SOFTWARE)  // for tests, on processors that do not have it
  using Floats = Vec<float>::type;
  sum += reinterpret_cast<Floats>(a & 0xffff0000u) * reinterpret_cast<Floats>(b & 0xffff0000u);
  sum += reinterpret_cast<Floats>(a << 16) * reinterpret_cast<Floats>(b << 16);
#else
  sum = _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
#endif
}
// Pairs from the first n of 32 elements that lie side by side, the rest zero; from the first n of
// 16 elements `low` and as many `high`, which may be null for zeros.
inline Vec<uint32_t>::type load_pairs(const bfloat16* from, int64_t n) {
  const uint32_t mask = n >= 32 ? ~0u : (1u << n) - 1;
  return reinterpret_cast<Vec<uint32_t>::type>(_mm512_maskz_loadu_epi16(mask, from));
}
inline Vec<uint32_t>::type zip_pairs(const bfloat16* low, const bfloat16* high, int64_t n) {
  const __mmask16 mask = n >= 16 ? 0xffff : (1u << n) - 1;
  const auto widened = [mask](const bfloat16* from) {
    return reinterpret_cast<Vec<uint32_t>::type>(
        _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from)));
  };
  return high ? widened(low) | widened(high) << 16 : widened(low);
}
#endif
