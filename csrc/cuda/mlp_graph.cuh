// Launches recorded once, to be repeated as one CUDA graph; and how far the host may run ahead.
#pragma once
#include "cuda/common.cuh"

namespace gdext::cuda {

class Graph {
 public:
  // record(context) launches; nothing runs yet. It is recorded on a stream of its own: that of
  // `context` may be the default stream, which cannot be captured. Other threads may use CUDA.
  template <class F>
  Graph(Context context, const F& record) {
    cudaStream_t stream = nullptr;
    check_cuda("stream for a graph", cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    cudaGraph_t graph = nullptr;
    cudaError_t error = cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed);
    if (error == cudaSuccess) {
      try {
        context.stream = stream;
        record(context);
      } catch (...) {
        cudaStreamEndCapture(stream, &graph);
        forget(stream, graph);
        throw;
      }
      error = cudaStreamEndCapture(stream, &graph);
    }
    if (error == cudaSuccess) error = cudaGraphInstantiate(&executable_, graph, 0);
    forget(stream, graph);
    check_cuda("graph of steps", error);
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  // Where it is still running, CUDA waits with that until it is done.
  ~Graph() {
    if (executable_) cudaGraphExecDestroy(executable_);
  }

  void launch(Context context) const {
    check_cuda("launch of a graph of steps",
               cudaGraphLaunch(executable_, static_cast<cudaStream_t>(context.stream)));
  }

 private:
  static void forget(cudaStream_t stream, cudaGraph_t graph) {
    if (graph) cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
  }
  cudaGraphExec_t executable_ = nullptr;
};

// Keeps the host at most two chunks of work ahead of the device.
class Pace {
 public:
  explicit Pace(Context context) : context_(context) {
    for (cudaEvent_t& event : events_) {
      const cudaError_t error = cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
      if (error == cudaSuccess) continue;
      destroy();
      check_cuda("event", error);
    }
  }
  Pace(const Pace&) = delete;
  Pace& operator=(const Pace&) = delete;
  ~Pace() { destroy(); }

  // A chunk has been launched: waits for the one before the last.
  void mark() {
    cudaEvent_t& event = events_[count_++ % 2];
    check_cuda("event", cudaEventRecord(event, static_cast<cudaStream_t>(context_.stream)));
    if (count_ >= 2) check_cuda("steps", cudaEventSynchronize(events_[count_ % 2]));
  }

 private:
  void destroy() {
    for (cudaEvent_t event : events_)
      if (event) cudaEventDestroy(event);
  }
  Context context_;
  cudaEvent_t events_[2] = {};
  int64_t count_ = 0;
};

}  // namespace gdext::cuda
