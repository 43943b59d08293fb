// A pool of page-locked memory (pinned.cuh): allocating it may wait for the whole device, so that
// none is ever freed. Of each size there are at most as many blocks as may wait for their copies,
// and those that are held, by graphs above all.
#include <algorithm>
#include <atomic>
#include <bit>
#include <mutex>
#include <vector>

#include "cuda/pinned.cuh"

namespace gdext::cuda {

constexpr int kMostWaiting = 16;

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

// All blocks, those taken last at the end.
struct Pool {
  std::mutex mutex;
  std::vector<std::unique_ptr<Pinned>> blocks;
};
Pool& the_pool() {
  static Pool& pool = *new Pool;  // never destroyed: graphs may give back blocks at the very end
  return pool;
}

// Where a graph was the last to hold the block, a thread of CUDA's calls this: no locks here, and
// no call of CUDA.
void give_back(Pinned* block) { block->taken.store(false, std::memory_order_release); }

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
  const std::lock_guard lock(the_pool().mutex);
  auto& blocks = the_pool().blocks;
  const auto take = [&](size_t i) -> std::shared_ptr<Pinned> {
    std::rotate(blocks.begin() + i, blocks.begin() + i + 1, blocks.end());
    Pinned* block = blocks.back().get();
    block->taken.store(true, std::memory_order_relaxed);
    return {block, give_back};
  };
  std::vector<size_t> waiting;
  for (size_t i = 0; i < blocks.size(); ++i) {
    const Pinned& block = *blocks[i];
    if (block.device != device || block.bytes != size) continue;
    if (block.taken.load(std::memory_order_acquire)) continue;
    if (!block.is_waiting()) return take(i);
    waiting.push_back(i);
  }
  const auto wait_for_oldest = [&] {
    check_cuda("copy from pinned memory", cudaEventSynchronize(blocks[waiting[0]]->copied));
    return take(waiting[0]);
  };
  if (waiting.size() >= kMostWaiting) return wait_for_oldest();
  try {
    blocks.push_back(std::make_unique<Pinned>(device, size));
  } catch (const std::runtime_error&) {  // no memory: who has asked before must not fail now
    if (waiting.empty()) throw;
    return wait_for_oldest();
  }
  return take(blocks.size() - 1);
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
  if (!capturing) check_cuda("event", cudaEventRecord(from->copied, stream));
}

}  // namespace gdext::cuda
