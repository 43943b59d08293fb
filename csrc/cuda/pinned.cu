// A pool of page-locked memory (pinned.cuh): allocating it may wait for the whole device, so that
// none is ever freed. There is as much of it as copies were waiting at the same time: a few blocks,
// since the driver lets the host be about a thousand launches ahead; and what graphs hold.
#include <atomic>
#include <bit>
#include <mutex>
#include <vector>

#include "cuda/pinned.cuh"

namespace gdext::cuda {

struct Pinned {
  int device;
  size_t bytes;
  void* data = nullptr;
  cudaEvent_t copied = nullptr;  // the last copy, but for those of graphs
  std::atomic<bool> taken{true};

  Pinned(int device, size_t bytes) : device(device), bytes(bytes) {
    check_cuda("event", cudaEventCreateWithFlags(&copied, cudaEventDisableTiming));
    const cudaError_t error = cudaHostAlloc(&data, bytes, cudaHostAllocDefault);
    if (error != cudaSuccess) cudaEventDestroy(copied);
    check_cuda(("pinned memory of the host, " + std::to_string(bytes) + " bytes").c_str(), error);
  }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;

  bool is_copied() const {
    const cudaError_t error = cudaEventQuery(copied);
    if (error == cudaErrorNotReady) {
      cudaGetLastError();
      return false;
    }
    check_cuda("copy from pinned memory", error);
    return true;
  }
};

namespace {

// All that there is. CUDA may give blocks back when the process ends, and so it is never destroyed.
struct Pool {
  std::mutex mutex;  // of `blocks`
  std::vector<std::unique_ptr<Pinned>> blocks;
};
Pool& pool() {
  static Pool& pool = *new Pool;
  return pool;
}

// It comes from a thread of CUDA's, which must not wait, where a graph was the last to hold it.
void give_back(Pinned* block) { block->taken.store(false, std::memory_order_release); }

// While a stream is being captured, CUDA refuses whatever could end the capture unless the thread
// vouches that it does not: neither memory of the host nor an event outside of the capture does.
class RelaxedCapture {
 public:
  RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// Until the graph, what is instantiated from it, and its last run are gone.
void hold_by(cudaGraph_t graph, const std::shared_ptr<Pinned>& block) {
  using Holder = std::shared_ptr<Pinned>;
  auto holder = std::make_unique<Holder>(block);
  cudaUserObject_t object = nullptr;
  check_cuda("object of a graph",
             cudaUserObjectCreate(
                 &object, holder.get(), [](void* held) { delete static_cast<Holder*>(held); }, 1,
                 cudaUserObjectNoDestructorSync));
  holder.release();
  const cudaError_t error = cudaGraphRetainUserObject(graph, object, 1, cudaGraphUserObjectMove);
  if (error != cudaSuccess) cudaUserObjectRelease(object, 1);
  check_cuda("object of a graph", error);
}

}  // namespace

std::shared_ptr<Pinned> take_pinned(size_t bytes) {
  const RelaxedCapture relaxed;
  int device = 0;
  check_cuda("device", cudaGetDevice(&device));
  const std::lock_guard lock(pool().mutex);
  auto& blocks = pool().blocks;
  for (const auto& block : blocks) {
    if (block->device != device || block->bytes < bytes) continue;
    if (block->taken.load(std::memory_order_acquire) || !block->is_copied()) continue;
    block->taken.store(true, std::memory_order_relaxed);
    return {block.get(), give_back};
  }
  blocks.push_back(std::make_unique<Pinned>(device, std::bit_ceil(bytes)));
  return {blocks.back().get(), give_back};
}

void* address_of(const Pinned& block) { return block.data; }

void copy_to_device(const std::shared_ptr<Pinned>& from, void* to, size_t bytes, Context context) {
  const auto stream = static_cast<cudaStream_t>(context.stream);
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cudaGraph_t graph = nullptr;
  check_cuda("capture", cudaStreamGetCaptureInfo(stream, &status, nullptr, &graph));
  const bool capturing = status == cudaStreamCaptureStatusActive;
  if (capturing) hold_by(graph, from);
  check_cuda("copy from pinned memory",
             cudaMemcpyAsync(to, from->data, bytes, cudaMemcpyHostToDevice, stream));
  if (!capturing) check_cuda("event", cudaEventRecord(from->copied, stream));
}

}  // namespace gdext::cuda
