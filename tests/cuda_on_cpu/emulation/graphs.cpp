// Streams, their capture into graphs, and events. A stream does everything at once, but while it is
// captured its launches are recorded, to be run when the graph is.
#include <cuda_runtime.h>

#include <memory>
#include <vector>

struct emulated_graph {
  std::vector<std::function<void()>> launches;
};
struct emulated_stream {
  std::unique_ptr<emulated_graph> captured;
};

namespace emulation {

bool record(cudaStream_t stream, const std::function<void()>& launch) {
  if (!stream || !stream->captured) return false;
  stream->captured->launches.push_back(launch);
  return true;
}

}  // namespace emulation

using namespace emulation;

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  *stream = new emulated_stream;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return cudaStreamCreate(stream);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
// Nothing may be waited for while it is captured, and so it is on the device.
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return stream && stream->captured ? last_error = cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (!stream || stream->captured) return last_error = cudaErrorStreamCaptureUnsupported;
  stream->captured = std::make_unique<emulated_graph>();
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status =
      stream && stream->captured ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (!stream || !stream->captured) return last_error = cudaErrorStreamCaptureUnsupported;
  *graph = stream->captured.release();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long) {
  if (const cudaError_t error = std::exchange(next_graph_error, cudaSuccess)) {
    return last_error = error;
  }
  *executable = new emulated_graph(*graph);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  if (stream && stream->captured) return last_error = cudaErrorStreamCaptureUnsupported;
  ++graph_launches;
  for (const auto& launch : executable->launches) launch();
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = nullptr;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
