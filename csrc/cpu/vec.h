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
  // In every lane. (The compilers drop the subtraction, x - 0 being x for every x.)
  static type broadcast(A value) { return value - type{}; }
};

// For small functions on vectors, whose loops over registers unroll only where they are inlined.
#define GDEXT_INLINE inline __attribute__((always_inline))

// How many accumulators the GEMM micro-kernel holds in registers: kRows x kVectors vectors, chosen
// so that they, kVectors of B and one broadcast of A fit: 32 registers for AVX-512, 16 for the
// others.
#if GDEXT_VEC_BYTES == 64
constexpr int kMicroRows = 12, kMicroVectors = 2;
#elif GDEXT_VEC_BYTES == 32
constexpr int kMicroRows = 6, kMicroVectors = 2;
#else
constexpr int kMicroRows = 4, kMicroVectors = 2;
#endif
