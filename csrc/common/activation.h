// y = f(z), f'(z) and f''(z) of every activation, the formula once for CPU and CUDA.
//
// The backward pass keeps one tensor per layer, `s` (saved): y where f' can be had from y without
// losing precision, else z. PyTorch's own choices are the same (relu, sigmoid and tanh keep the
// result; elu, softplus, silu and gelu keep the argument). scaled_tanh keeps z because a y rounded
// to 16 bits may lie beyond its asymptote, where b (a - y^2 / a) has the wrong sign.
#pragma once
#include <cmath>
#include <cstdint>

#include "common/dtype.h"

namespace gdext {

// The numbers are part of the op schema (gdext/_autograd/linear.py has the same list).
enum class Activation : int {
  identity,
  relu,         // max(z, 0)
  leaky_relu,   // z > 0 ? z : 0.01 z
  elu,          // z > 0 ? z : exp(z) - 1
  sigmoid,      // 1 / (1 + exp(-z))
  tanh,         // tanh(z)
  scaled_tanh,  // 1.7159 tanh(2/3 z)           (LeCun et al., "Efficient BackProp", 1998)
  softplus,     // log(1 + exp(z)), z above 20  (PyTorch's beta = 1, threshold = 20)
  silu,         // z sigmoid(z)
  gelu,         // z Phi(z), Phi the normal distribution's cdf
  gelu_tanh,    // 0.5 z (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3)))
};
constexpr int kActivations = 11;

// Does `s` hold z (true) or y (false)?
GDEXT_HD constexpr bool saves_z(Activation a) {
  return a == Activation::elu || a == Activation::scaled_tanh || a == Activation::softplus ||
         a == Activation::silu || a == Activation::gelu || a == Activation::gelu_tanh;
}

namespace detail {
template <class T>
GDEXT_HD inline T sigmoid(T z) {
  return T(1) / (T(1) + std::exp(-z));
}
template <class T>
GDEXT_HD inline T normal_cdf(T z) {
  return T(0.5) * (T(1) + std::erf(z * T(0.70710678118654752440)));
}
template <class T>
GDEXT_HD inline T normal_pdf(T z) {
  return T(0.39894228040143267794) * std::exp(T(-0.5) * z * z);
}
// 1 - tanh(u)^2, which in that form would cancel where tanh is near 1.
template <class T>
GDEXT_HD inline T sech2(T u) {
  const T e = std::exp(T(-2) * std::abs(u));
  return T(4) * e / ((T(1) + e) * (T(1) + e));
}
// gelu_tanh(z) = 0.5 z (1 + tanh(u)), u = k (z + c z^3).
template <class T>
struct GeluTanh {
  static constexpr T k = T(0.79788456080286535588), c = T(0.044715);
  T u, du, d2u;  // u, du/dz, d2u/dz2
  GDEXT_HD explicit GeluTanh(T z)
      : u(k * (z + c * z * z * z)), du(k * (T(1) + 3 * c * z * z)), d2u(k * 6 * c * z) {}
};
constexpr double kScaledTanhA = 1.7159, kScaledTanhB = 2.0 / 3.0, kLeakySlope = 0.01;
constexpr double kSoftplusThreshold = 20.0;
}  // namespace detail

// A is a template parameter, so that a loop over elements holds no branch on it (with_activation).
template <Activation A, class T>
GDEXT_HD inline T activate(T z) {
  using namespace detail;
  if constexpr (A == Activation::identity) return z;
  // NaN must pass through, hence the comparison this way round.
  if constexpr (A == Activation::relu) return z <= T(0) ? T(0) : z;
  if constexpr (A == Activation::leaky_relu) return z > T(0) ? z : T(kLeakySlope) * z;
  if constexpr (A == Activation::elu) return z > T(0) ? z : std::expm1(z);
  if constexpr (A == Activation::sigmoid) return sigmoid(z);
  if constexpr (A == Activation::tanh) return std::tanh(z);
  if constexpr (A == Activation::scaled_tanh)
    return T(kScaledTanhA) * std::tanh(T(kScaledTanhB) * z);
  if constexpr (A == Activation::softplus)
    return z > T(kSoftplusThreshold) ? z : std::log1p(std::exp(z));
  if constexpr (A == Activation::silu) return z * sigmoid(z);
  if constexpr (A == Activation::gelu) return z * normal_cdf(z);
  if constexpr (A == Activation::gelu_tanh)
    return T(0.5) * z * (T(1) + std::tanh(GeluTanh<T>(z).u));
}

// f'(z) from s.
template <Activation A, class T>
GDEXT_HD inline T activation_derivative(T s) {
  using namespace detail;
  if constexpr (A == Activation::identity) return T(1);
  if constexpr (A == Activation::relu) return s <= T(0) ? T(0) : T(1);
  if constexpr (A == Activation::leaky_relu) return s > T(0) ? T(1) : T(kLeakySlope);
  if constexpr (A == Activation::elu) return s > T(0) ? T(1) : std::exp(s);
  if constexpr (A == Activation::sigmoid) return s * (T(1) - s);
  if constexpr (A == Activation::tanh) return T(1) - s * s;
  if constexpr (A == Activation::scaled_tanh)
    return T(kScaledTanhA * kScaledTanhB) * sech2(T(kScaledTanhB) * s);
  if constexpr (A == Activation::softplus) return s > T(kSoftplusThreshold) ? T(1) : sigmoid(s);
  if constexpr (A == Activation::silu) {
    const T p = sigmoid(s);
    return p * (T(1) + s * (T(1) - p));
  }
  if constexpr (A == Activation::gelu) return normal_cdf(s) + s * normal_pdf(s);
  if constexpr (A == Activation::gelu_tanh) {
    const GeluTanh<T> g(s);
    return T(0.5) * (T(1) + std::tanh(g.u) + s * sech2(g.u) * g.du);
  }
}

// dy f'(z) from s: the backward of y = f(z).
template <Activation A, class T>
GDEXT_HD inline T activation_backward(T dy, T s) {
  // Selected, not multiplied: a dead unit passes nothing on, infinite and NaN gradients neither.
  if constexpr (A == Activation::relu) return s <= T(0) ? T(0) : dy;
  return dy * activation_derivative<A>(s);
}

// f''(z) from s; only the backward of the backward needs it.
template <Activation A, class T>
GDEXT_HD inline T activation_second_derivative(T s) {
  using namespace detail;
  if constexpr (A == Activation::identity || A == Activation::relu || A == Activation::leaky_relu)
    return T(0);
  if constexpr (A == Activation::elu) return s >= T(0) ? T(0) : std::exp(s);
  if constexpr (A == Activation::sigmoid) return s * (T(1) - s) * (T(1) - 2 * s);
  if constexpr (A == Activation::tanh) return T(-2) * s * (T(1) - s * s);
  if constexpr (A == Activation::scaled_tanh) {
    const T u = T(kScaledTanhB) * s;
    return T(-2 * kScaledTanhA * kScaledTanhB * kScaledTanhB) * std::tanh(u) * sech2(u);
  }
  if constexpr (A == Activation::softplus) {
    const T p = sigmoid(s);
    return s > T(kSoftplusThreshold) ? T(0) : p * (T(1) - p);
  }
  if constexpr (A == Activation::silu) {
    const T p = sigmoid(s), dp = p * (T(1) - p);
    return dp * (T(2) + s * (T(1) - 2 * p));
  }
  if constexpr (A == Activation::gelu) return normal_pdf(s) * (T(2) - s * s);
  if constexpr (A == Activation::gelu_tanh) {
    const GeluTanh<T> g(s);
    return sech2(g.u) * (g.du + s * (T(0.5) * g.d2u - std::tanh(g.u) * g.du * g.du));
  }
}

// What the backward's own backward hands on to z (contract/linear.h): gz = q dy f''(z).
template <Activation A, class T>
GDEXT_HD inline T activation_gz(T q, T dy, T s) {
  if constexpr (A == Activation::identity || A == Activation::relu || A == Activation::leaky_relu)
    return T(0);  // not 0 * q * dy, which is NaN where one of them is infinite
  else
    return q * dy * activation_second_derivative<A>(s);
}

template <Activation A>
struct ActivationTag {
  static constexpr Activation value = A;
};

// Calls f(ActivationTag<A>{}) for the run-time value `a`; f must be callable where the caller runs.
template <class F>
GDEXT_HD void with_activation(Activation a, F&& f) {
  switch (a) {
#define GDEXT_CASE(name)                  \
  case Activation::name:                  \
    f(ActivationTag<Activation::name>{}); \
    return;
    GDEXT_CASE(identity)
    GDEXT_CASE(relu)
    GDEXT_CASE(leaky_relu)
    GDEXT_CASE(elu)
    GDEXT_CASE(sigmoid)
    GDEXT_CASE(tanh)
    GDEXT_CASE(scaled_tanh)
    GDEXT_CASE(softplus)
    GDEXT_CASE(silu)
    GDEXT_CASE(gelu)
    GDEXT_CASE(gelu_tanh)
#undef GDEXT_CASE
  }
#if !defined(__CUDA_ARCH__)  // device code cannot throw
  throw std::logic_error("gdext: unknown Activation");
#endif
}

}  // namespace gdext
