// The products of bfloat16 for x86-64 with AVX512-BF16 beside AVX-512 (F, BW, DQ, VL), which the
// kernels of isa_avx512.cpp are completed with. With GDEXT_BF16_SOFTWARE, for tests, every
// processor with AVX-512 can run them.
#include "cpu/kernels.h"

#if defined(__x86_64__)
#if defined(__clang__) && defined(GDEXT_BF16_SOFTWARE)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#elif defined(__clang__)
#pragma clang attribute push(                                                          \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#if defined(GDEXT_BF16_SOFTWARE)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")
#endif
// GCC's own headers make undefined vectors of undefined variables (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define GDEXT_ISA avx512bf16
#define GDEXT_VEC_BYTES 64
#define GDEXT_BF16_PAIRS
#include "cpu/kernels.inl"

namespace gdext::cpu::avx512bf16 {
extern const Bf16Kernels kernels;
const Bf16Kernels kernels = {linear_as<bfloat16>, linear_backward_as<bfloat16>};
}  // namespace gdext::cpu::avx512bf16

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
