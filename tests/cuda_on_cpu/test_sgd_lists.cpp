// What sgd (contract/sgd.h) does on CUDA alone: one launch for a list of any length, whose way to
// the device (cuda/pinned.cuh) is the list's own for as long as a stream or a graph may read it.
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

void check_allocations(long wanted) {
  ++compared;
  const long made = std::exchange(emulation::host_allocations, 0);
  if (made != wanted) fail("allocated memory " + std::to_string(made) + " times");
}

// Its graph, made as PyTorch makes one.
class Captured {
 public:
  explicit Captured(List& list) {
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaStreamCreate(&stream);
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
    list.update(stream);
    cudaStreamEndCapture(stream, &graph);
    cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
  }
  ~Captured() { cudaGraphExecDestroy(executable_); }
  Captured(const Captured&) = delete;
  Captured& operator=(const Captured&) = delete;
  void run() const { cudaGraphLaunch(executable_, nullptr); }

 private:
  cudaGraphExec_t executable_;
};

void test_launches() {
  for (const int64_t count : {int64_t{1}, kLong - 1, kLong, 2 * kLong}) {
    begin_case("sgd lists, launches for", count);
    List list(count);
    const long before = emulation::launches;
    list.update();
    list.check_updates(1);
    if (emulation::launches != before + 1) fail("not one launch");
  }
  begin_case("sgd lists, without a workspace");
  List list(kLong);
  list.args.workspace = nullptr;
  try {
    list.update();
    fail("no error");
  } catch (const std::logic_error&) {
  }
}

void test_waiting() {
  List first(kLong), second(kLong);
  begin_case("sgd lists, one after the other");
  first.update();
  emulation::host_allocations = 0;
  second.update();
  check_allocations(0);

  begin_case("sgd lists, one while the other waits");
  emulation::events_wait = true;
  second.update();
  check_allocations(1);
  emulation::events_wait = false;
  first.update();
  check_allocations(0);
  if (cudaGetLastError() != cudaSuccess) fail("left its question's answer to whoever asks next");

  begin_case("sgd lists, two at once");
  first.args.staging = cuda::sgd_staging(kLong), second.args.staging = cuda::sgd_staging(kLong);
  check_allocations(0);
  if (first.args.staging == second.args.staging) fail("the same memory twice");
  first.args.staging.reset(), second.args.staging.reset();
  if (cuda::sgd_staging(kLong - 1)) fail("memory for a list that needs none");
}

void test_graphs() {
  List list(kLong), other(kLong);
  begin_case("sgd lists, in a graph");
  cuda::sgd_staging(kLong);  // there is memory that the graph may take
  emulation::host_allocations = 0;
  {
    const Captured graph(list), graph_of_other(other);
    list.check_updates(0);
    for (float times = 1; times <= 2; ++times) {
      other.update();
      graph.run();
      list.check_updates(times);
      other.check_updates(times);
    }
    graph_of_other.run();
    other.check_updates(3);
  }
  begin_case("sgd lists, after their graphs");
  emulation::host_allocations = 0;
  const Captured graph(list), graph_of_other(other);
  check_allocations(0);
}

void test_no_memory() {
  begin_case("sgd lists, no memory");
  List list(64 * kLong);  // longer than any before
  emulation::next_host_error = cudaErrorMemoryAllocation;
  try {
    list.update();
    fail("no error");
  } catch (const std::runtime_error& error) {
    const std::string message = error.what();
    if (!message.starts_with("gdext: CUDA, pinned memory of the host, ")) fail(message);
  }
  list.check_updates(0);
  if (cudaGetLastError() != cudaSuccess) fail("left its error to whoever asks next");
  list.update();
  list.check_updates(1);
}

}  // namespace

void test_sgd_lists() {
  test_launches();
  test_waiting();
  test_graphs();
  test_no_memory();
}

}  // namespace gdext::test
