// A pool of page-locked memory (pinned.cuh). None is ever freed, since that, as allocating it, may
// wait for the whole device: of each device and size there are as many blocks as graphs held at one
// time, and kMostWaiting at most whose copies wait.
#include <algorithm>
#include <atomic>
#include <bit>
#include <mutex>
#include <vector>

#include "cuda/pinned.cuh"

namespace gdext::cuda {

constexpr int kMostWaiting = 16;  // enough for the device to have work while the host waits

struct Pinned {
  int device;
  size_t bytes;
  void* data = nullptr;
  cudaEvent_t copied = nullptr;  // after the last copy, but for those of graphs
  std::atomic<bool> taken{true};

  Pinned(int device, size_t bytes) : device(device), bytes(bytes) {
    check_cuda("event", cudaEventCreateWithFlags(&copied, cudaEventDisableTiming));
    const cudaError_t error = cudaHostAlloc(&data, bytes, cudaHostAllocDefault);
    if (error != cudaSuccess) cudaEventDestroy(copied);
    check_cuda(("pinned memory of the host, " + std::to_string(bytes) + " bytes").c_str(), error);
  }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;

  bool is_waiting() const {
    const cudaError_t error = cudaEventQuery(copied);
    if (error == cudaErrorNotReady) {
      cudaGetLastError();
      return true;
    }
    check_cuda("copy from pinned memory", error);
    return false;
  }
};

namespace {

// Where a graph was the last to hold the block, a thread of CUDA's calls this: no locks here, and
// no call of CUDA.
void give_back(Pinned* block) { block->taken.store(false, std::memory_order_release); }

// Nothing that waits is done under its lock: what it waits for might need another thread's list.
class Pool {
 public:
  // Of the blocks that nobody holds the one that was taken longest ago, once they are `enough` even
  // if its copy is still waiting; else null.
  std::shared_ptr<Pinned> take(int device, size_t bytes, int enough) {
    const std::lock_guard lock(mutex_);
    auto oldest = blocks_.end();
    int count = 0;
    for (auto it = blocks_.begin(); it != blocks_.end(); ++it) {
      const Pinned& block = **it;
      if (block.device != device || block.bytes != bytes) continue;
      if (block.taken.load(std::memory_order_acquire)) continue;
      if (++count == 1) oldest = it;
    }
    if (count == 0 || (count < enough && (*oldest)->is_waiting())) return nullptr;
    Pinned* block = oldest->get();
    std::rotate(oldest, oldest + 1, blocks_.end());
    block->taken.store(true, std::memory_order_relaxed);
    return {block, give_back};
  }
  std::shared_ptr<Pinned> add(std::unique_ptr<Pinned> block) {
    const std::lock_guard lock(mutex_);
    blocks_.push_back(std::move(block));
    return {blocks_.back().get(), give_back};
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Pinned>> blocks_;  // those taken last at the end
};
Pool& the_pool() {
  static Pool& pool = *new Pool;  // never destroyed: graphs may give back blocks at the very end
  return pool;
}

// While a stream is being captured, CUDA refuses whatever could end the capture, unless the thread
// says that it knows better: neither memory of the host nor an event outside of the capture does.
class RelaxedCapture {
 public:
  RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// Holds the block until the graph, what is instantiated from it, and its last run are gone.
void keep_for_life_of(cudaGraph_t graph, const std::shared_ptr<Pinned>& block) {
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
  const size_t size = std::bit_ceil(bytes);
  std::shared_ptr<Pinned> block = the_pool().take(device, size, kMostWaiting);
  if (!block) {
    try {
      return the_pool().add(std::make_unique<Pinned>(device, size));
    } catch (const std::runtime_error&) {  // no memory: who has asked before must not fail now
      block = the_pool().take(device, size, 1);
      if (!block) throw;
    }
  }
  check_cuda("copy from pinned memory", cudaEventSynchronize(block->copied));
  return block;
}

void* address_of(const Pinned& block) { return block.data; }

void copy_to_device(const std::shared_ptr<Pinned>& from, void* to, size_t bytes, Context context) {
  const auto stream = static_cast<cudaStream_t>(context.stream);
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cudaGraph_t graph = nullptr;
  check_cuda("capture", cudaStreamGetCaptureInfo(stream, &status, nullptr, &graph));
  const bool capturing = status == cudaStreamCaptureStatusActive;
  if (capturing) keep_for_life_of(graph, from);
  check_cuda("copy from pinned memory",
             cudaMemcpyAsync(to, from->data, bytes, cudaMemcpyHostToDevice, stream));
  if (capturing) return;
  const cudaError_t error = cudaEventRecord(from->copied, stream);
  if (error != cudaSuccess) new std::shared_ptr<Pinned>(from);  // nobody may write there again
  check_cuda("event", error);
}

}  // namespace gdext::cuda
