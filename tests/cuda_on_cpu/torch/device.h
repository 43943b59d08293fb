// The stand-in for csrc/torch/device.h: it is the CUDA kernels that compute on tensors of the CPU.
#pragma once
#include "torch/checks.h"

namespace gdext {

inline bool torch_has_cuda() { return false; }
inline bool runs_on_cuda(const Tensor&) { return true; }
bool allows_tf32();
inline void check_built_for(const Tensor&) {}
// From SCHEDULE_SEED in the environment, if it is there.
bool seed_schedule();

template <class F>
auto with_cuda(const Tensor&, const F& f) {
  [[maybe_unused]] static const bool seeded = seed_schedule();  // before the first launch
  Context context;
  context.tf32 = allows_tf32();
  return f(context);
}

#define GDEXT_RUN(like, op, args) \
  ::gdext::with_cuda(like, [&](Context context) { ::gdext::cuda::op(args, context); })
#define GDEXT_RUN_ON_CUDA GDEXT_RUN

}  // namespace gdext
