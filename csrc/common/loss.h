// The scalar formulas of the losses (contract/mse.h, contract/cross_entropy.h), once for CPU and
// CUDA. A is the accumulation type.
#pragma once
#include <cmath>
#include <cstdint>

#include "common/dtype.h"

namespace gdext {

template <class A>
GDEXT_HD inline A squared_error(A x, A t, A w) {
  return w * (x - t) * (x - t);
}
// d(squared_error)/dx times g; linear in g, as both backward passes use it. g comes first: 2 w (x -
// t) alone may overflow where the product does not.
template <class A>
GDEXT_HD inline A squared_error_dx(A x, A t, A w, A g) {
  return A(2) * w * g * (x - t);
}

// q[c] of one sample, contract/cross_entropy.h's target distribution: `hit` is [c == t] or t[c].
template <class A>
GDEXT_HD inline A smoothed_target(A hit, A w, A label_smoothing, A classes) {
  return w * ((A(1) - label_smoothing) * hit + label_smoothing / classes);
}
// l = log sum_c exp(x[c] - m) from its terms: `ties` of them, those of the largest logit m, are 1,
// `rest` is the sum of the others. Exact to the last digits also where l is tiny, that is where one
// class has nearly all of the probability. Where m is infinite or NaN so is every log p.
GDEXT_HD inline double log_sum_exp(double m, double ties, double rest) {
  return m - m == 0 ? std::log1p(rest + (ties - 1)) : NAN;
}
// log p[c] from the sample's stats m and l.
template <class A>
GDEXT_HD inline A log_probability(A x, A m, A l) {
  return (x - m) - l;
}

}  // namespace gdext
