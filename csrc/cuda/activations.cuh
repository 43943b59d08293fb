// The activations chosen at run time. The switch is the same for every thread, so it costs no
// divergence.
#pragma once
#include "cuda/common.cuh"
#include "cuda/formulas.cuh"

namespace gdext::cuda {

template <class A>
__device__ A activate(Activation activation, A z) {
  A y = z;
  with_activation(activation, [&](auto tag) { y = cuda::activate<decltype(tag)::value>(z); });
  return y;
}
template <class A>
__device__ A activation_backward(Activation activation, A dy, A s) {
  A dz = A(0);
  with_activation(activation,
                  [&](auto tag) { dz = cuda::activation_backward<decltype(tag)::value>(dy, s); });
  return dz;
}

}  // namespace gdext::cuda
