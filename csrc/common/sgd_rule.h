// The update of one element (contract/sgd.h), once for CPU and CUDA.
#pragma once
#include "common/dtype.h"

namespace gdext {

template <class A>
struct SgdRule {
  // 1 - dampening is rounded once, from float64: with dampening near 1 the difference of two
  // rounded numbers would have few digits left.
  GDEXT_HD SgdRule(double lr_, double momentum_, double dampening, double weight_decay_,
                   bool nesterov_, bool maximize_)
      : lr(static_cast<A>(lr_)),
        momentum(static_cast<A>(momentum_)),
        undamped(static_cast<A>(1.0 - dampening)),
        weight_decay(static_cast<A>(weight_decay_)),
        has_momentum(momentum_ != 0),
        nesterov(nesterov_),
        maximize(maximize_) {}

  A lr, momentum, undamped, weight_decay;
  bool has_momentum;  // not what `momentum` says: rounding may have made a tiny one zero
  bool nesterov, maximize;

  // Updates p, and m where there is momentum; `first`: m holds nothing yet. T: A or a vector of A.
  template <class T>
  GDEXT_HD void operator()(T& p, const T& g, T& m, bool first) const {
    T d = maximize ? -g : g;
    if (weight_decay != A(0)) d += weight_decay * p;
    if (has_momentum) {
      m = first ? d : momentum * m + undamped * d;
      d = nesterov ? d + momentum * m : m;
    }
    p -= lr * d;
  }
};

}  // namespace gdext
