// The update of one element (contract/sgd.h), once for CPU and CUDA.
#pragma once
#include "common/dtype.h"

namespace gdext {

template <class A>
struct SgdRule {
  A lr, momentum, dampening, weight_decay;
  bool nesterov, maximize;

  // Updates p, and m where momentum != 0; `first`: m holds nothing yet.
  GDEXT_HD void operator()(A& p, A g, A& m, bool first) const {
    A d = maximize ? -g : g;
    if (weight_decay != A(0)) d += weight_decay * p;
    if (momentum != A(0)) {
      m = first ? d : momentum * m + (A(1) - dampening) * d;
      d = nesterov ? d + momentum * m : m;
    }
    p -= lr * d;
  }
};

}  // namespace gdext
