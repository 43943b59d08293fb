// The element types every kernel knows, on host and device, without any framework's header.
#pragma once
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <type_traits>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define GDEXT_HD __host__ __device__
#else
#define GDEXT_HD
#endif

namespace gdext {

enum class DType : int { f32, f64, bf16, f16 };

// The upper half of a float32; conversions round to nearest, ties to even, as IEEE 754 and PyTorch
// do.
struct bfloat16 {
  uint16_t bits;
  bfloat16() = default;
  GDEXT_HD explicit bfloat16(float value);
  GDEXT_HD explicit operator float() const;
};

// IEEE 754 binary16.
struct float16 {
  uint16_t bits;
  float16() = default;
  GDEXT_HD explicit float16(float value);
  GDEXT_HD explicit operator float() const;
};

namespace detail {
template <class To, class From>
GDEXT_HD inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

// Branch-free on the hot path; the scaling by powers of two lets the float unit do the rounding,
// subnormals included.
GDEXT_HD inline uint16_t f32_to_f16_bits(float value) {
  const uint32_t x = bit_cast<uint32_t>(value);
  const uint32_t sign = (x >> 16) & 0x8000u;
  const uint32_t magnitude = x & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);   // NaN
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to infinity
  if (magnitude < 0x38800000u) {                                               // subnormal or zero
    const float shifted = bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t odd = (magnitude >> 13) & 1u;
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

GDEXT_HD inline float f16_bits_to_f32(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0) {  // mantissa * 2^-24, exact in float32
    const float magnitude = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
    return sign ? -magnitude : magnitude;
  }
  const uint32_t wide = exponent == 0x1fu ? 0xffu : exponent + 112u;
  return bit_cast<float>(sign | (wide << 23) | (mantissa << 13));
}
}  // namespace detail

// On the device its own instructions convert, with the same roundings.
GDEXT_HD inline bfloat16::bfloat16(float value) {
#if defined(__CUDA_ARCH__)
  bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
#else
  const uint32_t x = detail::bit_cast<uint32_t>(value);
  const bool nan = (x & 0x7fffffffu) > 0x7f800000u;
  bits = nan ? uint16_t{0x7fc0} : static_cast<uint16_t>((x + 0x7fffu + ((x >> 16) & 1u)) >> 16);
#endif
}
GDEXT_HD inline bfloat16::operator float() const {
  return detail::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}
GDEXT_HD inline float16::float16(float value) {
#if defined(__CUDA_ARCH__)
  bits = __half_as_ushort(__float2half_rn(value));
#else
  bits = detail::f32_to_f16_bits(value);
#endif
}
GDEXT_HD inline float16::operator float() const {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(bits));
#else
  return detail::f16_bits_to_f32(bits);
#endif
}

// Arithmetic on T is done in acc_t<T>: 16-bit types widen to float32, the others stay.
template <class T>
using acc_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

inline int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return 4;
    case DType::f64:
      return 8;
    case DType::bf16:
    case DType::f16:
      return 2;
  }
  return 0;
}

// Calls f(T{}) with the C++ type of `dtype`; f takes it as `auto tag` and uses decltype(tag).
template <class F>
void for_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32:
      f(float{});
      return;
    case DType::f64:
      f(double{});
      return;
    case DType::bf16:
      f(bfloat16{});
      return;
    case DType::f16:
      f(float16{});
      return;
  }
  throw std::logic_error("gdext: unknown DType");
}

}  // namespace gdext
