// What mlp has on CUDA alone (contract/mlp.h): the check of the samples on the device, and runs of
// which a graph is made, here or by the caller.
#include <cuda_runtime.h>

#include <numeric>

#include "contract/mlp.h"
#include "harness.h"

namespace gdext::test {
namespace {

constexpr int64_t kI = 5, kO = 3, kN = 50;

// A layer, and everything that its steps read.
struct Run {
  std::vector<float> w = randoms<float>(kO * kI), inputs = randoms<float>(kN * kI);
  std::vector<int64_t> classes, order;
  std::vector<double> losses = unwritten<double>(kN);
  std::vector<double> scratch;
  MlpLayer layer{};
  MlpGroup group{};
  MlpArgs args{};

  Run() {
    for (int64_t n = 0; n < kN; ++n) classes.push_back(n % kO), order.push_back(kN - 1 - n);
    layer.I = kI, layer.O = kO, layer.activation = Activation::identity;
    group.lr = 0.125;
    args.dtype = DType::f32;
    args.L = args.group_count = 1;
    args.input_row_stride = kI;
    args.samples = kN;
    args.B = 1;
    args.loss = MlpLoss::cross_entropy;
    args.reduction = Reduction::mean;
    args.ignore_index = -100;
    args.seconds = 1e9;
    args.form = MlpForm::layers;
  }
  // Where everything is now.
  const MlpArgs& here() {
    layer.w.data = w.data();
    layer.w.row_stride = kI, layer.w.col_stride = 1;
    args.layers = &layer, args.groups = &group;
    args.inputs = inputs.data(), args.targets = classes.data(), args.order = order.data();
    args.losses = losses.data();
    scratch.resize(cuda::mlp_sizes(args).scratch / sizeof(double) + 1);
    args.scratch = scratch.data();
    return args;
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

void test_graphs() {
  begin_case("mlp, in a graph");
  Run plain, captured;
  captured.w = plain.w, captured.inputs = plain.inputs;
  const long graphs = emulation::graph_launches;
  cuda::mlp(plain.here(), {});
  if (emulation::graph_launches == graphs) fail("made no graph of its own");

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
    ++compared;
    if (captured.w != plain.w || captured.losses != plain.losses) fail("other bits");
    cuda::mlp(plain.here(), {});
  }
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
}

}  // namespace

void test_mlp_runs() {
  test_check();
  test_graphs();
}

}  // namespace gdext::test
