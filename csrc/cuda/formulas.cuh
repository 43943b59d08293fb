// The formulas that CUDA shares with the CPU, for T = float and double.
#pragma once
#include <cmath>

#include "common/activation.h"
#include "common/dtype.h"

namespace gdext::cuda {

using std::abs;
using std::erf;
using std::exp;
using std::expm1;
using std::log1p;
using std::tanh;

template <class T>
using element_t = T;
template <class T>
GDEXT_HD inline T splat(T value) {
  return value;
}
template <class T>
GDEXT_HD inline T select(bool condition, T yes, T no) {
  return condition ? yes : no;
}

#include "common/activation_formulas.inl"
#include "common/loss_formulas.inl"

}  // namespace gdext::cuda
