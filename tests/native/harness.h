// What the tests of all ops share: random inputs, outputs that start as NaN, and the comparison
// with numbers computed in float64. GDEXT_BACKEND, cpu or cuda, is the backend that they test.
#pragma once
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <random>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "contract/common.h"
#include "cuda/formulas.cuh"  // plain C++ where no CUDA compiler reads it

namespace gdext::GDEXT_BACKEND {}

namespace gdext::test {

namespace backend = gdext::GDEXT_BACKEND;
#define GDEXT_NAME_OF_(x) #x
#define GDEXT_NAME_OF(x) GDEXT_NAME_OF_(x)
constexpr bool kOnCuda = std::string_view(GDEXT_NAME_OF(GDEXT_BACKEND)) == "cuda";

inline std::mt19937 rng;
inline long compared = 0, failures = 0;
inline std::string case_name;

template <class... Parts>
void begin_case(const Parts&... parts) {
  std::ostringstream text;
  ((text << parts << ' '), ...);
  case_name = text.str();
}

// For who wants to know but whether there is a failure.
inline const bool stop_at_first_failure = std::getenv("STOP_AT_FIRST_FAILURE") != nullptr;

inline void fail(const std::string& what) {
  constexpr long kMostPrinted = 20;
  if (++failures <= kMostPrinted) printf("FAIL %s: %s\n", case_name.c_str(), what.c_str());
  if (!stop_at_first_failure) return;
  fflush(stdout);
  std::_Exit(1);
}

inline bool coin() { return rng() % 2; }
template <class T>
T pick(std::initializer_list<T> values) {
  return values.begin()[rng() % values.size()];
}

template <class T>
constexpr DType dtype_of() {
  if (std::is_same_v<T, float>) return DType::f32;
  if (std::is_same_v<T, double>) return DType::f64;
  return std::is_same_v<T, bfloat16> ? DType::bf16 : DType::f16;
}

// Half the distance from 1 to the next larger number.
template <class T>
constexpr double unit_roundoff() {
  if (std::is_same_v<T, float>) return 0x1p-24;
  if (std::is_same_v<T, double>) return 0x1p-53;
  return std::is_same_v<T, bfloat16> ? 0x1p-8 : 0x1p-11;
}

template <class T>
double value(T v) {
  return static_cast<double>(static_cast<acc_t<T>>(v));
}
template <class T>
T from_double(double v) {
  return T(static_cast<acc_t<T>>(v));
}

template <class T>
std::vector<T> randoms(int64_t n, double low = -1, double high = 1) {
  std::uniform_real_distribution<double> uniform(low, high);
  std::vector<T> result(n);
  for (T& v : result) v = from_double<T>(uniform(rng));
  return result;
}

// NaN, whatever the type: what a kernel fails to write, or reads before it has, shows.
template <class T>
std::vector<T> unwritten(int64_t n) {
  std::vector<T> result(n);
  if (n) memset(static_cast<void*>(result.data()), 0xff, n * sizeof(T));
  return result;
}

// `got` may differ from `want` by one rounding to T, and by some roundings in acc_t<T> of terms as
// large as `magnitude`. NaN and infinity must be met exactly.
template <class T>
void near(T got_rounded, double want, double magnitude, const char* what, int64_t i) {
  constexpr double kLargestFloat16 = 65504, kHalfStep = 16;
  ++compared;
  const double got = value(got_rounded);
  if (std::is_same_v<T, float16> && std::fabs(want) >= kLargestFloat16 + kHalfStep)
    want = std::copysign(INFINITY, want);
  // The float64 reference's own roundings, of long naive sums, are as large as the kernel's.
  const double roundings = std::is_same_v<T, double> ? 1000 : 16;
  const double subnormal_step = std::is_same_v<T, float16> ? 0x1p-24 : 1e-37;
  const double tolerance = 1.01 * unit_roundoff<T>() * std::fabs(want) +
                           roundings * unit_roundoff<acc_t<T>>() * (magnitude + std::fabs(want)) +
                           subnormal_step;
  const bool ok = std::isnan(want)   ? std::isnan(got)
                  : std::isinf(want) ? got == want
                                     : std::fabs(got - want) <= tolerance;
  if (ok) return;
  std::ostringstream text;
  text.precision(9);
  text << what << "[" << i << "]: got " << got << ", want " << want << " within " << tolerance;
  fail(text.str());
}

// f, f' and f'' in float64.
inline double activated(Activation f, double z) {
  double y = NAN;
  with_activation(f, [&](auto tag) { y = cuda::activate<decltype(tag)::value>(z); });
  return y;
}
inline double derivative(Activation f, double s) {
  double slope = NAN;
  with_activation(f,
                  [&](auto tag) { slope = cuda::activation_derivative<decltype(tag)::value>(s); });
  return slope;
}
inline double second_derivative(Activation f, double s) {
  double bend = NAN;
  with_activation(
      f, [&](auto tag) { bend = cuda::activation_second_derivative<decltype(tag)::value>(s); });
  return bend;
}

// Each test checks one op's forward, backward and double backward on elements of type T.
template <class T>
void test_linear();
template <class T>
void test_mse();
template <class T>
void test_cross_entropy();
template <class T>
void test_sgd();
template <class T>
void test_mlp();

struct NamedTest {
  const char* name;
  void (*test)();
};

// The tests of the ops that both backends have, on elements of type T.
template <class T>
std::vector<NamedTest> op_tests() {
  return {{"linear", test_linear<T>},
          {"mse", test_mse<T>},
          {"cross_entropy", test_cross_entropy<T>},
          {"sgd", test_sgd<T>},
          {"mlp", test_mlp<T>}};
}

// Calls f(T{}) with the type that `name` (f32, f64, bf16, f16) means; false if it means none.
template <class F>
bool with_dtype_named(const std::string& name, const F& f) {
  if (name == "f32") return f(float{}), true;
  if (name == "f64") return f(double{}), true;
  if (name == "bf16") return f(bfloat16{}), true;
  if (name == "f16") return f(float16{}), true;
  return false;
}

// Runs the tests named `op`, or all if it is empty; whether there was one.
inline bool run_tests(const std::vector<NamedTest>& tests, const std::string& op) {
  bool known = false;
  for (const auto& [name, test] : tests)
    if (op.empty() || op == name) {
      known = true;
      test();
    }
  return known;
}

}  // namespace gdext::test

// Instantiates test<T> for every element type.
#define GDEXT_TEST_FOR_ALL_DTYPES(test) \
  template void test<float>();          \
  template void test<double>();         \
  template void test<bfloat16>();       \
  template void test<float16>();
