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
  // To width elements of any type, rounded to it; to the first n alone.
  template <class T>
  static void narrow(T* to, type v) {
    if constexpr (std::is_same_v<T, A>) {
      store(to, v);
    } else {
      narrow16(to, v);
    }
  }
  template <class T>
  static void narrow(T* to, type v, int64_t n) {
#if GDEXT_VEC_BYTES == 64
    const uint32_t mask = (1u << n) - 1;
    if constexpr (std::is_same_v<T, float>) return _mm512_mask_storeu_ps(to, mask, v);
    if constexpr (std::is_same_v<T, double>) return _mm512_mask_storeu_pd(to, mask, v);
#endif
    T rounded[width];
    narrow(rounded, v);
    std::memcpy(to, rounded, n * sizeof(T));
  }

 private:
#if GDEXT_VEC_BYTES > 0
  static type widen16(const bfloat16* from) {
    typedef uint16_t Half __attribute__((vector_size(GDEXT_VEC_BYTES / 2)));
    typedef uint32_t Full __attribute__((vector_size(GDEXT_VEC_BYTES)));
    Half bits;
    std::memcpy(&bits, from, sizeof(bits));
    return reinterpret_cast<type>(__builtin_convertvector(bits, Full) << 16);
  }
  static void narrow16(bfloat16* to, type v) {
    typedef uint16_t Half __attribute__((vector_size(GDEXT_VEC_BYTES / 2)));
    typedef uint32_t Full __attribute__((vector_size(GDEXT_VEC_BYTES)));
    const Full x = reinterpret_cast<Full>(v);
    const Full rounded = (x + 0x7fff + (x >> 16 & 1)) >> 16;
    const Half bits = __builtin_convertvector(v == v ? rounded : 0 * x + 0x7fc0, Half);
    std::memcpy(to, &bits, sizeof(bits));
  }
#else
  static type widen16(const bfloat16* from) { return static_cast<float>(*from); }
  static void narrow16(bfloat16* to, type v) { *to = bfloat16(v); }
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
    for (int i = 0; i < width; ++i) to[i] = float16(v[i]);
  }
#else
  static type widen16(const float16* from) { return static_cast<float>(*from); }
  static void narrow16(float16* to, type v) { *to = float16(v); }
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
