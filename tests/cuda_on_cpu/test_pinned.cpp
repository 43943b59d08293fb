// Host memory that streams and graphs copy from (cuda/pinned.cuh): whose it is, and until when.
#include "cuda/pinned.cuh"
#include "harness.h"

namespace gdext::test {
namespace {

constexpr size_t kBytes = 100;

void check_equal(const char* what, long got, long wanted) {
  ++compared;
  if (got != wanted)
    fail(std::string(what) + ": " + std::to_string(got) + ", wanted " + std::to_string(wanted));
}
void check_allocations(long wanted) {
  check_equal("allocations", std::exchange(emulation::host_allocations, 0), wanted);
}
void check_waits(long wanted) {
  check_equal("waits", std::exchange(emulation::event_waits, 0), wanted);
}

// Sends `byte` `bytes` times to `to`; returns where it was sent from.
void* send(char byte, char* to, size_t bytes = kBytes, cudaStream_t stream = nullptr) {
  const auto block = cuda::take_pinned(bytes);
  void* data = cuda::address_of(*block);
  memset(data, byte, bytes);
  cuda::copy_to_device(block, to, bytes, {.stream = stream});
  return data;
}

// What is sent in a graph.
class Captured {
 public:
  Captured(char byte, size_t bytes, cudaStreamCaptureMode mode) : to(bytes) {
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaStreamCreate(&stream);
    cudaStreamBeginCapture(stream, mode);
    send(byte, to.data(), bytes, stream);
    cudaStreamEndCapture(stream, &graph);
    cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
  }
  ~Captured() { cudaGraphExecDestroy(executable_); }
  Captured(const Captured&) = delete;
  Captured& operator=(const Captured&) = delete;

  void check(char byte) {
    cudaGraphLaunch(executable_, nullptr);
    ++compared;
    if (to != std::vector<char>(to.size(), byte)) fail("sent something else");
  }
  std::vector<char> to;

 private:
  cudaGraphExec_t executable_;
};

void test_waiting(char* to) {
  begin_case("pinned, one after the other");
  send(1, to);
  check_allocations(1);
  send(2, to), send(3, to);
  check_allocations(0);

  begin_case("pinned, two at once");
  {
    const auto one = cuda::take_pinned(kBytes), other = cuda::take_pinned(kBytes);
    if (one == other) fail("the same memory twice");
    check_allocations(1);
  }

  begin_case("pinned, another size");
  const auto larger = cuda::take_pinned(3 * kBytes);
  check_allocations(1);

  begin_case("pinned, copies that wait");
  emulation::events_wait = true;
  std::vector<void*> from;
  while (from.size() < 16) from.push_back(send(4, to));
  check_allocations(14);
  check_waits(0);
  while (from.size() < 36) from.push_back(send(5, to));
  check_allocations(0);
  check_waits(20);
  for (size_t i = 16; i < from.size(); ++i)
    if (from[i] != from[i - 16]) fail("did not wait for the oldest");
  emulation::events_wait = false;
  send(6, to);
  check_waits(0);
  if (cudaGetLastError() != cudaSuccess) fail("left its question's answer to whoever asks next");
}

void test_no_memory(char* to) {
  constexpr size_t kLarge = 16 * kBytes;
  begin_case("pinned, no memory");
  emulation::next_host_error = cudaErrorMemoryAllocation;
  try {
    send(1, to, kLarge);
    fail("no error");
  } catch (const std::runtime_error& error) {
    if (std::string(error.what()) !=
        "gdext: CUDA, pinned memory of the host, 2048 bytes: an emulated error")
      fail(error.what());
  }
  if (cudaGetLastError() != cudaSuccess) fail("left its error to whoever asks next");

  begin_case("pinned, no more memory");
  emulation::events_wait = true;
  emulation::host_allocations = 0;
  send(1, to, kLarge);
  check_allocations(1);
  emulation::next_host_error = cudaErrorMemoryAllocation;
  send(2, to, kLarge);
  check_waits(1);
  emulation::events_wait = false;
  if (cudaGetLastError() != cudaSuccess) fail("left its error to whoever asks next");
}

void test_graphs(char* to) {
  size_t bytes = 4000 * kBytes;  // other than any before: it is allocated in the capture
  for (const auto mode : {cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal,
                          cudaStreamCaptureModeRelaxed}) {
    begin_case("pinned, in a graph, mode", static_cast<int>(mode));
    emulation::host_allocations = 0;
    {
      Captured graph(1, bytes, mode), another(2, bytes, mode);
      check_allocations(2);
      for (const char byte : {3, 4}) {
        send(byte, to, bytes);
        graph.check(1), another.check(2);
      }
      check_allocations(1);
    }
    begin_case("pinned, after its graph, mode", static_cast<int>(mode));
    Captured graph(5, bytes, mode), another(6, bytes, mode);
    graph.check(5), another.check(6);
    send(7, to, bytes);
    check_allocations(0);
    bytes *= 2;
  }
  auto mode = cudaStreamCaptureModeGlobal;
  cudaThreadExchangeStreamCaptureMode(&mode);
  if (mode != cudaStreamCaptureModeGlobal) fail("left the thread in another mode");
}

void test_streams(char* to) {
  begin_case("pinned, the event of a copy");
  cudaStream_t stream;
  cudaStreamCreate(&stream);
  send(1, to, kBytes, stream);
  if (emulation::has_unmarked_copies(stream)) fail("not after it, or on another stream");
  cudaStreamDestroy(stream);
}

}  // namespace

void test_pinned() {
  std::vector<char> to(16000 * kBytes);
  emulation::host_allocations = emulation::event_waits = 0;
  test_waiting(to.data());
  test_no_memory(to.data());
  test_graphs(to.data());
  test_streams(to.data());
}

}  // namespace gdext::test
