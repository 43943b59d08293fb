// Numbers in float64 that carry along how far rounding may have taken the kernel's.
#pragma once
#include "harness.h"

namespace gdext::test {

// A number and a bound on its error, to first order.
struct Bounded {
  double value = 0, error = 0;
};
Bounded operator+(Bounded a, Bounded b) { return {a.value + b.value, a.error + b.error}; }
Bounded operator*(Bounded a, Bounded b) {
  return {a.value * b.value,
          std::fabs(a.value) * b.error + std::fabs(b.value) * a.error + a.error * b.error};
}

// How far some roundings in acc_t<T> of terms as large as `magnitude` may lead.
template <class T>
double slack(double magnitude) {
  const double roundings = std::is_same_v<T, double> ? 1000 : 16;
  return roundings * unit_roundoff<acc_t<T>>() * magnitude + 1e-37;
}
template <class T>
Bounded stored(Bounded x) {
  const double smallest = std::is_same_v<T, float16> ? 0x1p-24 : 0;
  return {x.value, x.error + 1.01 * unit_roundoff<T>() * (std::fabs(x.value) + x.error) + smallest};
}

template <class T>
struct Sum {
  Bounded total;
  double magnitude = 0;
  void add(Bounded a, Bounded b) {
    const Bounded product = a * b;
    total = total + product;
    magnitude += std::fabs(product.value);
  }
  Bounded result() const { return total + Bounded{0, slack<T>(magnitude)}; }
};

// f(x) where |f'| is at most `slope`, computed with an error of some roundings of x and f(x).
template <class T, class F>
Bounded through(Bounded x, double slope, const F& f) {
  const double y = f(x.value);
  return {y, slope * x.error + slack<T>(std::fabs(x.value) + std::fabs(y) + 1)};
}

// f'(z), from z or from y; T is the kernel's type.
template <class T>
Bounded slope(Activation f, Bounded z, Bounded y) {
  Bounded s = saves_z(f) ? stored<T>(z) : y;
  constexpr double kSteepest = 2.1;  // of f', from z or y, where it has no step
  Bounded result = through<T>(s, kSteepest, [&](double v) { return derivative(f, v); });
  const bool has_step = f == Activation::relu || f == Activation::leaky_relu;
  if (has_step && std::fabs(z.value) <= z.error) result.error += 1;
  return result;
}

}  // namespace gdext::test
