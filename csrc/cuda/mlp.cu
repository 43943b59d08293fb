// mlp on CUDA (contract/mlp.h): the checks of the samples, and a run of steps in the form that
// suits it (mlp_forms.cuh), launched a chunk at a time.
#include <algorithm>
#include <chrono>
#include <optional>
#include <vector>

#include "cuda/mlp_batch.cuh"
#include "cuda/mlp_forms.cuh"
#include "cuda/mlp_graph.cuh"

namespace gdext::cuda {
namespace {

constexpr int64_t kCheckBlocks = kMlpCheckBytes / static_cast<int64_t>(sizeof(MlpFault));

struct Min {
  template <class A>
  __device__ A operator()(A a, A b) const {
    return a < b ? a : b;
  }
};

// What is checked: contract/mlp.h.
struct Samples {
  const int64_t* order;
  const int64_t* classes;
  int64_t count, N, C, ignore_index;

  __device__ int64_t sample(int64_t i) const { return order ? order[i] : i; }
  __device__ bool is_sample(int64_t n) const { return n >= 0 && n < N; }
  __device__ bool is_class(int64_t t) const { return (t >= 0 && t < C) || t == ignore_index; }
};

// first[block] = the first place of a sample or class out of range, among the block's; or `count`.
// Where `trap`, nobody is there to read it.
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    mlp_check_kernel(const Samples in, MlpFault* faults, bool trap) {
  int64_t first = in.count;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       i < in.count && first == in.count; i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t n = in.sample(i);
    if (!in.is_sample(n) || (in.classes && !in.is_class(in.classes[n]))) first = i;
  }
  first = block_reduce(first, Min{});
  if (threadIdx.x != 0) return;
  MlpFault fault{first, 0, 0, false};
  if (first < in.count) {
    fault.sample = in.sample(first);
    fault.of_order = !in.is_sample(fault.sample);
    if (!fault.of_order) fault.target = in.classes[fault.sample];
    if (trap) {
      printf(fault.of_order ? "Sample %lld is out of bounds.\n" : "Target %lld is out of bounds.\n",
             static_cast<long long>(fault.of_order ? fault.sample : fault.target));
      __trap();
    }
  }
  faults[blockIdx.x] = fault;
}

int64_t steps_of(const MlpArgs& args) { return ceil_div(args.samples, args.B); }

}  // namespace

bool is_capturing(Context context) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check_cuda("capture", cudaStreamIsCapturing(static_cast<cudaStream_t>(context.stream), &status));
  return status != cudaStreamCaptureStatusNone;
}

int64_t take_steps(MlpRun& run, int64_t steps, double seconds, Context context) {
  const auto begin = std::chrono::steady_clock::now();
  // A run of a single chunk needs none: it waits for nothing here, and when the driver's queue is
  // full of such runs, the next launch waits for one chunk, some milliseconds, at most.
  std::optional<Pace> pace;
  if (steps > run.steps_at_once()) pace.emplace(context);
  int64_t done = 0;
  try {
    while (done < steps) {
      const int64_t chunk = std::min(run.steps_at_once(), steps - done);
      run.take(chunk);
      done += chunk;
      if (done < steps) pace->mark();
      const std::chrono::duration<double> past = std::chrono::steady_clock::now() - begin;
      if (past.count() > seconds) break;
    }
  } catch (const std::runtime_error&) {
    if (done == 0) throw;
  }
  return done;
}

MlpSizes mlp_sizes(const MlpArgs& args) {
  const MlpResidentPlan plan = mlp_resident_plan(args);
  return {0, plan.blocks ? mlp_resident_scratch(args, plan) : mlp_layers_scratch(args)};
}

MlpFault mlp_check(const MlpArgs& args, int64_t N, void* memory, Context context) {
  const bool classes = args.loss == MlpLoss::cross_entropy;
  MlpFault none{args.samples, 0, 0, false};
  if (!args.order && !classes) return none;
  auto* faults = static_cast<MlpFault*>(memory);
  const int64_t blocks = std::min(ceil_div(args.samples, kThreads), kCheckBlocks);
  const bool trap = is_capturing(context);
  launch("mlp, check of the samples", mlp_check_kernel, blocks, kThreads, context,
         Samples{args.order, classes ? static_cast<const int64_t*>(args.targets) : nullptr,
                 args.samples, N, args.layers[args.L - 1].O, args.ignore_index},
         faults, trap);
  if (trap) return none;
  const auto stream = static_cast<cudaStream_t>(context.stream);
  std::vector<MlpFault> found(blocks);
  check_cuda("copy of what the check has found",
             cudaMemcpyAsync(found.data(), faults, found.size() * sizeof(MlpFault),
                             cudaMemcpyDeviceToHost, stream));
  check_cuda("check of the samples", cudaStreamSynchronize(stream));
  return *std::min_element(found.begin(), found.end(), [](const MlpFault& a, const MlpFault& b) {
    return a.position < b.position;
  });
}

int64_t mlp(const MlpArgs& args, Context context) {
  const int64_t steps = steps_of(args);
  const MlpResidentPlan plan = mlp_resident_plan(args);
  const std::unique_ptr<MlpRun> run = plan.blocks ? mlp_resident(args, plan, args.scratch, context)
                                                  : mlp_layers(args, args.scratch, context);
  if (is_capturing(context)) {
    run->take(steps);
    return steps;
  }
  return take_steps(*run, steps, args.seconds, context);
}

}  // namespace gdext::cuda
