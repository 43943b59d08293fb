// The forms that a run of steps may take on CUDA (contract/mlp.h), for mlp.cu to choose from.
#pragma once
#include <memory>

#include "contract/mlp.h"
#include "cuda/common.cuh"

namespace gdext::cuda {

// A run of steps under way.
class MlpRun {
 public:
  virtual ~MlpRun() = default;
  // Launches what takes the next `steps` steps, in the order of the stream.
  virtual void take(int64_t steps) = 0;
  // The steps that should be launched at a time.
  virtual int64_t steps_at_once() const = 0;
};

// Takes steps [0, steps) of the run, a chunk at a time and at most two ahead of the device, until
// `seconds` have passed; returns how many are launched. An error is thrown before the first chunk
// alone: after one the steps launched are returned, for the caller to count, whose next call meets
// the error again.
int64_t take_steps(MlpRun&, int64_t steps, double seconds, Context);

// Any network, batch, dtype and option: a few kernels for each step (mlp_layers.cu).
int64_t mlp_layers_scratch(const MlpArgs&);
std::unique_ptr<MlpRun> mlp_layers(const MlpArgs&, void* scratch, Context);

// float32 and batches of up to 8 samples: one kernel for many steps, the weights in the shared
// memory of the blocks of a cluster, or of a cooperative grid where they do not fit one
// (mlp_resident.cu).
struct MlpResidentPlan {
  int blocks = 0;  // 0: the run is not for this form
  bool grid = false, momentum_shared = true;
};
// The fastest on the current device, as estimated; or `form` on so many blocks, or an error.
MlpResidentPlan mlp_resident_plan(const MlpArgs&);
int64_t mlp_resident_scratch(const MlpArgs&, const MlpResidentPlan&);
std::unique_ptr<MlpRun> mlp_resident(const MlpArgs&, const MlpResidentPlan&, void* scratch,
                                     Context);

// Whether the stream is being captured into a graph: then nothing may be waited for.
bool is_capturing(Context);

}  // namespace gdext::cuda
