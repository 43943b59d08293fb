// The activations y = f(z); common/activation_formulas.inl computes them.
//
// The backward pass keeps one tensor per layer, `s` (saved): y where f' can be had from y without
// losing precision, else z. PyTorch's own choices are the same (relu, sigmoid and tanh keep the
// result; elu, softplus, silu and gelu keep the argument). scaled_tanh keeps z because a y rounded
// to 16 bits may lie beyond its asymptote, where b (a - y^2 / a) has the wrong sign.
#pragma once
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
