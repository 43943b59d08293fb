// sgd: one update of a list of tensors, the rule of torch.optim.SGD (Sutskever et al., "On the
// importance of initialization and momentum in deep learning", 2013, in PyTorch's form):
//
//   g <- g / grad_scale                              where grad_scale is given; stored back, as a
//                                                    GradScaler expects
//   d  = (maximize ? -g : g) + weight_decay p
//   m <- first ? d : momentum m + (1 - dampening) d  where momentum != 0
//   d  = nesterov ? d + momentum m : m               where momentum != 0
//   p <- p - lr d
//
// Nothing at all is written where *found_inf != 0.
//
// p, g and m are of `dtype`; the arithmetic is done in its accumulation type and rounded once, when
// stored. Tensors may have any length, 0 too; they must not overlap one another.
#pragma once
#include <memory>

#include "contract/common.h"

namespace gdext {

namespace cuda {
struct Pinned;  // host memory that the device copies from (cuda/pinned.cuh)
}

struct SgdTensor {
  void* p;  // [n] parameter; updated
  void* g;  // [n] gradient; read, and overwritten where grad_scale is given
  void* m;  // [n] momentum; updated (overwritten, never read, if first); null if momentum == 0
  int64_t n;
  bool first;  // m holds nothing yet
};

struct SgdArgs {
  DType dtype;
  const SgdTensor* tensors;  // [count], host memory
  int64_t count;
  double lr;              // used where lr_tensor is null
  const void* lr_tensor;  // [1] of lr_dtype in the backend's memory, or null; not among what is
                          // written: CUDA's blocks read it while others write
  double momentum, dampening, weight_decay;
  bool nesterov, maximize;
  const float* grad_scale;      // [1] in the backend's memory, or null: 1
  const float* found_inf;       // [1] in the backend's memory, or null: 0
  void* workspace = nullptr;    // CUDA: [sgd_workspace_bytes(count)] on the device, aligned to 8
  DType lr_dtype = DType::f64;  // f32 or f64
  // CUDA: sgd_staging(count), for this call alone; or null, then sgd takes it.
  std::shared_ptr<cuda::Pinned> staging = {};
};

// The number that lr_tensor holds.
GDEXT_HD inline double read_lr(const void* lr_tensor, DType dtype) {
  return dtype == DType::f32 ? *static_cast<const float*>(lr_tensor)
                             : *static_cast<const double*>(lr_tensor);
}

// How many tensors a CUDA launch can take in its parameters. A longer list is copied to a
// workspace: an entry for each tensor, and a number for every kSgdStride of them.
constexpr int64_t kSgdTensorsInParameters = 1008;
constexpr int64_t kSgdEntryBytes = 32;
constexpr int kSgdStride = 16;
constexpr int64_t sgd_workspace_bytes(int64_t count) {
  if (count <= kSgdTensorsInParameters) return 0;
  return count * kSgdEntryBytes + (count + kSgdStride - 1) / kSgdStride * int64_t{4};
}

namespace cpu {
void sgd(const SgdArgs&, Context);
}
namespace cuda {
void sgd(const SgdArgs&, Context);
// The host's memory that a list of `count` tensors is copied from to the current device; null where
// none is needed. Who updates several lists takes it for all of them before the first one: there
// may be too little. Where it was taken and given back, taking as much again, one list after the
// other, does not fail, if nothing is captured and no other thread takes it.
std::shared_ptr<Pinned> sgd_staging(int64_t count);
}  // namespace cuda

}  // namespace gdext
