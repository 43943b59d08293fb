// usage: vmath    the largest errors of exp, expm1, tanh, erf and log1p (csrc/cpu/vmath.inl), a
// line each: name, type, units in the last place, and the argument where it is. Compiled for one
// vector size, -DGDEXT_VEC_BYTES=0, 32 or 64 and the instruction set's flags.
#include <cstdio>
#include <random>
#include <type_traits>

#include "cpu/kernels.h"

namespace gdext::cpu {
namespace {

#include "cpu/vec.h"
// clang-format off: each uses those above it
#include "cpu/lanes.inl"
#include "cpu/vmath.inl"
// clang-format on

// |got - want| in units of the last place of E at `want`; 0 where both are the same infinity.
template <class E>
double ulps(E got, long double want) {
  const E nearest = static_cast<E>(want);
  if (got == nearest || (got != got && nearest != nearest)) return 0;
  if (!std::isfinite(got) || !std::isfinite(nearest)) return INFINITY;
  const E size = std::abs(nearest);
  const long double unit = std::max<long double>(
      std::numeric_limits<E>::denorm_min(),
      size < std::numeric_limits<E>::min()
          ? 0
          : std::ldexp(1.0L, std::ilogb(size) + 1 - std::numeric_limits<E>::digits));
  return static_cast<double>(std::abs(static_cast<long double>(got) - want) / unit);
}

template <class E, class F, class G>
void check(const char* name, double least, double most, const F& function, const G& wanted) {
  constexpr int W = Vec<E>::width, kVectors = 1 << 16;
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> linear(least, most), exponent(-60, std::log2(most));
  double worst = 0;
  E at = 0;
  for (int n = 0; n < kVectors * 16 / W; ++n) {
    E x[W], y[W];
    for (E& value : x) {
      const double size = std::exp2(exponent(random));
      value = static_cast<E>(n % 2 ? linear(random) : least < 0 && random() % 2 ? -size : size);
      if (value < least) value = static_cast<E>(least);
    }
    Vec<E>::store(y, function(Vec<E>::load(x)));
    for (int i = 0; i < W; ++i) {
      const double error = ulps(y[i], wanted(static_cast<long double>(x[i])));
      if (error > worst) worst = error, at = x[i];
    }
  }
  printf("%s %s %.3f at %.17g\n", name, sizeof(E) == 4 ? "float32" : "float64", worst,
         static_cast<double>(at));
}

template <class E>
void check_all() {
  using V = typename Vec<E>::type;
  const bool single = sizeof(E) == 4;
  const double largest = single ? 88.7 : 709.7, smallest = single ? -104 : -746;
  check<E>(
      "exp", smallest, largest, [](V x) { return exp(x); },
      [](long double x) { return std::exp(x); });
  check<E>(
      "expm1", smallest, largest - 1, [](V x) { return expm1(x); },
      [](long double x) { return std::expm1(x); });
  check<E>(
      "tanh", -30, 30, [](V x) { return tanh(x); }, [](long double x) { return std::tanh(x); });
  check<E>("erf", -7, 7, [](V x) { return erf(x); }, [](long double x) { return std::erf(x); });
  check<E>(
      "log1p", 0, 1e6, [](V x) { return log1p(x); }, [](long double x) { return std::log1p(x); });
}

}  // namespace
}  // namespace gdext::cpu

int main() {
  gdext::cpu::check_all<float>();
  gdext::cpu::check_all<double>();
}
