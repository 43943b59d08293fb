// What mlp has on CUDA alone (contract/mlp.h): the check of the samples on the device, the choice
// of a form, and runs that are taken in parts or as a graph, made here or by the caller.
#include <cuda_runtime.h>

#include <memory>

#include "cuda/mlp_forms.cuh"
#include "harness.h"

namespace gdext::test {
namespace {

constexpr int64_t kI = 5, kO = 3, kN = 50;

// Three layers with momentum, and everything that their steps read.
struct Run {
  static constexpr int64_t kSizes[] = {kI, 40, 7, kO};
  std::vector<std::vector<float>> w, m;
  std::vector<float> inputs = randoms<float>(kN * kI);
  std::vector<int64_t> classes, order;
  std::vector<double> losses = std::vector<double>(kN);
  std::vector<double> scratch;
  std::vector<MlpLayer> layers;
  MlpGroup group{};
  MlpArgs args{};

  explicit Run(MlpForm form = MlpForm::layers, int blocks = 0) {
    for (size_t l = 0; l < 3; ++l) {
      w.push_back(randoms<float>(kSizes[l] * kSizes[l + 1], -0.5, 0.5));
      m.push_back(unwritten<float>(w.back().size()));
    }
    for (int64_t n = 0; n < kN; ++n) classes.push_back(n % kO), order.push_back(kN - 1 - n);
    group.lr = 0.125, group.momentum = 0.5;
    args.dtype = DType::f32;
    args.L = 3, args.group_count = 1;
    args.input_row_stride = kI;
    args.samples = kN;
    args.B = 1;
    args.loss = MlpLoss::cross_entropy;
    args.reduction = Reduction::mean;
    args.ignore_index = -100;
    args.seconds = 1e9;
    args.form = form, args.blocks = blocks;
  }
  // Where everything is now.
  const MlpArgs& here() {
    layers.clear();
    for (size_t l = 0; l < 3; ++l) {
      MlpLayer layer{};
      layer.I = kSizes[l], layer.O = kSizes[l + 1], layer.activation = Activation::tanh;
      layer.w = {w[l].data(), layer.I, 1, m[l].data(), layer.I, 1, true, 0};
      layers.push_back(layer);
    }
    args.layers = layers.data(), args.groups = &group;
    args.inputs = inputs.data(), args.targets = classes.data(), args.order = order.data();
    args.losses = losses.data();
    room(cuda::mlp_sizes(args).scratch);
    return args;
  }
  void room(int64_t bytes) {
    scratch.resize(bytes / sizeof(double) + 8);
    void* begin = scratch.data();
    size_t space = scratch.size() * sizeof(double);
    args.scratch = std::align(64, bytes, begin, space);
  }
  void compare(const Run& other) const {
    ++compared;
    if (w != other.w || m != other.m || losses != other.losses) fail("other bits");
  }
};

void check_fault(const std::string& what, Run run, int64_t position, bool of_order, int64_t number,
                 int64_t N = kN) {
  begin_case("mlp, check of the samples,", what);
  std::vector<int64_t> memory(cuda::kMlpCheckBytes / sizeof(int64_t));
  const MlpFault fault = cuda::mlp_check(run.here(), N, memory.data(), {});
  ++compared;
  if (fault.position != position) fail("found it at " + std::to_string(fault.position));
  if (position == kN) return;
  if (fault.of_order != of_order || (of_order ? fault.sample : fault.target) != number)
    fail("found another number");
}

void test_check() {
  Run run;
  check_fault("none", run, kN, false, 0);
  check_fault("fewer inputs", run, 0, true, kN - 1, kN - 1);
  Run wrong = run;
  wrong.order[20] = -1, wrong.order[40] = kN;
  check_fault("order", wrong, 20, true, -1);
  wrong = run;
  wrong.classes[wrong.order[30]] = kO, wrong.classes[wrong.order[31]] = -1;
  check_fault("classes", wrong, 30, false, kO);
  wrong.classes[wrong.order[30]] = -100;
  check_fault("an ignored class", wrong, 31, false, -1);
}

// In parts, of which a later one begins amid the run.
void test_parts() {
  const auto in_parts = [](Run run, const auto& start) {
    const auto parts = start(run);
    for (const int64_t steps : {1, 1, 3, 4}) parts->take(steps);
    return run;
  };
  begin_case("mlp, in parts, by layers");
  Run whole;
  whole.args.samples = 9;
  const Run before = whole;
  cuda::mlp(whole.here(), {});
  in_parts(before, [](Run& run) {
    run.here();
    return cuda::mlp_layers(run.args, run.args.scratch, {});
  }).compare(whole);

  for (const cuda::MlpResidentPlan plan :
       {cuda::MlpResidentPlan{1, false, true}, {2, false, false}, {3, true, true}}) {
    begin_case("mlp, in parts, resident", "blocks", plan.blocks, "grid", plan.grid,
               "momentum_shared", plan.momentum_shared);
    Run resident = before;
    resident.args.form = plan.grid ? MlpForm::grid : MlpForm::cluster;
    resident.args.blocks = plan.blocks;
    const Run fresh = resident;
    cuda::mlp(resident.here(), {});
    in_parts(fresh, [&](Run& run) {
      run.here();
      run.room(cuda::mlp_resident_scratch(run.args, plan));
      return cuda::mlp_resident(run.args, plan, run.args.scratch, {});
    }).compare(resident);
    for (size_t i = 0; i < whole.w[0].size(); ++i)
      near(resident.w[0][i], whole.w[0][i], 100, "w of layer 0, and by layers", i);
  }
}

void check_plan(const std::string& what, std::vector<int64_t> sizes, int64_t B, double momentum,
                int blocks, bool grid, DType dtype = DType::f32) {
  begin_case("mlp, the form for", what);
  std::vector<MlpLayer> layers(sizes.size() - 1);
  float parameter = 0;
  for (size_t l = 0; l < layers.size(); ++l) {
    layers[l].I = sizes[l], layers[l].O = sizes[l + 1];
    layers[l].w.data = layers[l].b.data = &parameter;
    layers[l].w.momentum = layers[l].b.momentum = momentum ? &parameter : nullptr;
  }
  MlpGroup group{};
  group.momentum = momentum;
  MlpArgs args{};
  args.dtype = dtype;
  args.layers = layers.data(), args.L = static_cast<int64_t>(layers.size());
  args.groups = &group, args.group_count = 1;
  args.B = args.samples = B;
  args.input_row_stride = sizes[0];
  const cuda::MlpResidentPlan plan = cuda::mlp_resident_plan(args);
  ++compared;
  if (plan.blocks != blocks || (blocks && plan.grid != grid))
    fail("chose " + std::to_string(plan.blocks) + " blocks, grid " + std::to_string(plan.grid));
}

void test_plans() {
  const std::vector<int64_t> mnist{784, 512, 512, 10};
  check_plan("784-512-512-10", mnist, 1, 0, 16, false);
  check_plan("784-512-512-10, batch 8", mnist, 8, 0, 128, true);
  check_plan("784-512-512-10 with momentum", mnist, 1, 0.9, 128, true);
  check_plan("8-64-64-4", {8, 64, 64, 4}, 8, 0.9, 1, false);
  // Those of tests/sanitizer_selection.py.
  check_plan("9-5", {9, 5}, 1, 0.5, 1, false);
  check_plan("33-200-130-7", {33, 200, 130, 7}, 3, 0.5, 16, false);
  check_plan("33-20-7, batch 17", {33, 20, 7}, 17, 0.5, 0, false);
  check_plan("784-1024-1024-1024-1024-10", {784, 1024, 1024, 1024, 1024, 10}, 1, 0, 128, true);
  check_plan("30000-1000-10", {30000, 1000, 10}, 1, 0, 0, false);
  check_plan("batch 9", mnist, 9, 0, 0, false);
  check_plan("float64", mnist, 1, 0, 0, false, DType::f64);
  const emulation::Device here = emulation::device;
  emulation::device.major = 8;
  check_plan("sm_80", mnist, 1, 0, 128, true);
  emulation::device.major = 7;
  check_plan("sm_75", mnist, 1, 0, 0, false);
  emulation::device = here;
}

void test_graphs() {
  begin_case("mlp, in a graph");
  Run plain, captured;
  captured.w = plain.w, captured.inputs = plain.inputs;
  const long graphs = emulation::graph_launches;
  cuda::mlp(plain.here(), {});
  if (emulation::graph_launches == graphs) fail("made no graph of its own");

  // None can be had: the steps are taken all the same.
  Run without = captured;
  const long made = emulation::graph_launches;
  emulation::next_graph_error = cudaErrorMemoryAllocation;
  if (cuda::mlp(without.here(), {}) != kN) fail("did not take all steps without a graph");
  if (emulation::graph_launches != made) fail("made a graph");
  without.compare(plain);

  // The caller's graph, replayed: as if the run were called twice.
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  cudaStreamCreate(&stream);
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
  const auto before = captured.w;
  std::vector<int64_t> memory(cuda::kMlpCheckBytes / sizeof(int64_t));
  cuda::mlp_check(captured.here(), kN, memory.data(), {stream});
  if (cuda::mlp(captured.args, {stream}) != kN) fail("did not take all steps");
  if (cudaStreamEndCapture(stream, &graph) != cudaSuccess) fail("broke the capture");
  cudaStreamDestroy(stream);
  if (captured.w != before) fail("ran while it was captured");
  cudaGraphInstantiate(&executable, graph, 0);
  for (int replay = 0; replay < 2; ++replay) {
    cudaGraphLaunch(executable, nullptr);
    captured.compare(plain);
    cuda::mlp(plain.here(), {});
  }
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
}

void test_refused_launch() {
  begin_case("mlp, a launch refused");
  Run run;
  const auto before = run.w;
  run.here();
  emulation::next_launch_error = cudaErrorInvalidConfiguration;
  std::string message;
  try {
    cuda::mlp(run.args, {});
  } catch (const std::runtime_error& error) {
    message = error.what();
  }
  if (message.find("gdext: CUDA kernel mlp, begin: ") != 0) fail("threw '" + message + "'");
  if (run.w != before) fail("changed parameters");
}

// Chunks of 10 steps, of which one is refused.
struct RefusedRun final : cuda::MlpRun {
  int64_t taken = 0, at;
  explicit RefusedRun(int64_t at) : at(at) {}
  void take(int64_t steps) override {
    if (taken == at) throw std::runtime_error("refused");
    taken += steps;
  }
  int64_t steps_at_once() const override { return 10; }
};

// Who counts the steps learns of those launched before, and of the error at the next call.
void test_refused_chunk() {
  begin_case("mlp, a chunk refused");
  for (const int64_t at : {10, 20}) {
    RefusedRun run(at);
    ++compared;
    if (cuda::take_steps(run, 25, 1e9, {}) != at) fail("did not return the steps before it");
  }
  for (const int64_t steps : {5, 25}) {
    RefusedRun run(0);
    ++compared;
    try {
      cuda::take_steps(run, steps, 1e9, {});
      fail("did not throw");
    } catch (const std::runtime_error&) {
    }
  }
  RefusedRun whole(-1), in_time(-1);
  ++compared;
  if (cuda::take_steps(whole, 25, 1e9, {}) != 25 || whole.taken != 25) fail("not all steps");
  if (cuda::take_steps(in_time, 25, 0, {}) != 10) fail("went on when the time was over");
}

// So that a signal is seen in time: of the smallest network, whose steps are launches alone, at 2
// us for each of 3 L + 2 kernels.
void test_steps_at_once() {
  begin_case("mlp, steps at a time");
  Run run;
  run.here();
  const auto parts = cuda::mlp_layers(run.args, run.args.scratch, {});
  const double seconds = static_cast<double>(parts->steps_at_once()) * (3 * 3 + 2) * 2e-6;
  ++compared;
  if (seconds < 2e-3 || seconds > 20e-3) fail("take " + std::to_string(seconds) + " s");
}

__global__ void empty_kernel() {}

// As two networks do that train side by side, in the resident form's one kernel.
void test_shared_memory_of_two_threads() {
  begin_case("launch, as another thread asks for less shared memory");
  const cuda::LaunchShape large{.blocks = 1, .threads = 32, .dynamic_shared = 200 * 1024};
  const cuda::LaunchShape small{.blocks = 1, .threads = 32, .dynamic_shared = 60 * 1024};
  const cuda::LaunchConfig launch(large, {});
  cuda::allow_shape(empty_kernel, large);
  cuda::allow_shape(empty_kernel, small);
  ++compared;
  if (cudaLaunchKernelEx(&launch.config, empty_kernel) != cudaSuccess) fail("was refused");
}

}  // namespace

void test_mlp_runs() {
  test_check();
  test_plans();
  test_parts();
  test_graphs();
  test_refused_launch();
  test_refused_chunk();
  test_steps_at_once();
  test_shared_memory_of_two_threads();
}

}  // namespace gdext::test
