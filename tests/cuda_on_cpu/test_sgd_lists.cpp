// What sgd (contract/sgd.h) does on CUDA alone: one launch for a list of any length.
#include <cuda_runtime.h>

#include <stdexcept>

#include "contract/sgd.h"
#include "harness.h"

namespace gdext::test {
namespace {

constexpr int64_t kLong = kSgdTensorsInParameters + 1;

// Tensors of one element each, all 0, from which each update takes 1.
struct List {
  std::vector<float> p, g;
  std::vector<SgdTensor> tensors;
  std::vector<int64_t> workspace;
  SgdArgs args{};

  explicit List(int64_t count)
      : p(count), g(count, 1), workspace(sgd_workspace_bytes(count) / sizeof(int64_t) + 1) {
    for (int64_t i = 0; i < count; ++i) tensors.push_back({&p[i], &g[i], nullptr, 1, false});
    args.dtype = DType::f32;
    args.tensors = tensors.data(), args.count = count;
    args.lr = 1;
    args.workspace = workspace.data();
  }
  void update(cudaStream_t stream = nullptr) { cuda::sgd(args, {.stream = stream}); }
  void check_updates(float times) const {
    ++compared;
    if (p != std::vector<float>(p.size(), -times))
      fail("wanted " + std::to_string(times) + " updates of each tensor");
  }
};

void test_launches() {
  for (const int64_t count : {int64_t{1}, kLong - 1, kLong, 2 * kLong}) {
    begin_case("sgd_lists, launches for", count);
    List list(count);
    const long before = emulation::launches;
    list.update();
    list.check_updates(1);
    if (emulation::launches != before + 1) fail("not one launch");
  }
  begin_case("sgd_lists, without a workspace");
  List list(kLong);
  list.args.workspace = nullptr;
  try {
    list.update();
    fail("no error");
  } catch (const std::logic_error&) {
  }
}

void test_graph() {
  begin_case("sgd_lists, in a graph");
  List list(kLong), other(kLong);
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  cudaStreamCreate(&stream);
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
  list.update(stream);
  cudaStreamEndCapture(stream, &graph);
  cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  list.check_updates(0);
  for (float times = 1; times <= 2; ++times) {
    other.update();
    cudaGraphLaunch(executable, nullptr);
    list.check_updates(times);
    other.check_updates(times);
  }
  cudaGraphExecDestroy(executable);
}

void test_no_memory() {
  begin_case("sgd_lists, no memory");
  List first(5 * kLong), second(5 * kLong);
  emulation::next_host_error = cudaErrorMemoryAllocation;
  try {
    first.update();
    fail("no error: memory of that size was there, wanted a longer list than any before");
  } catch (const std::runtime_error&) {
  }
  first.check_updates(0);

  begin_case("sgd_lists, no memory after both were told that there is some");
  for (const List* list : {&first, &second}) cuda::sgd_staging(list->args.count);
  emulation::events_wait = true;
  first.update();
  emulation::next_host_error = cudaErrorMemoryAllocation;
  second.update();
  emulation::events_wait = false;
  emulation::next_host_error = cudaSuccess;
  second.check_updates(1);

  begin_case("sgd_lists, memory taken before");
  List list(kLong);
  list.args.staging = cuda::sgd_staging(kLong);
  const auto others = {cuda::sgd_staging(kLong), cuda::sgd_staging(kLong)};
  emulation::host_allocations = 0;
  list.update();
  list.check_updates(1);
  if (emulation::host_allocations) fail("took more");
  if (cuda::sgd_staging(kLong - 1)) fail("memory for a list that needs none");
}

}  // namespace

void test_sgd_lists() {
  test_launches();
  test_graph();
  test_no_memory();
}

}  // namespace gdext::test
