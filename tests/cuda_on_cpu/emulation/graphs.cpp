// Streams, their capture into graphs, and events. A stream does everything at once, but while it is
// captured its launches and copies are recorded, to be done when the graph is run.
#include <cuda_runtime.h>

#include <memory>
#include <vector>

struct emulated_user_object {
  void* data;
  cudaHostFn_t destroy;
  ~emulated_user_object() { destroy(data); }
};
struct emulated_graph {
  std::vector<std::function<void()>> work;
  std::vector<std::shared_ptr<emulated_user_object>> objects;
};
struct emulated_stream {
  std::unique_ptr<emulated_graph> captured;
  cudaStreamCaptureMode mode;
  bool unmarked_copies = false;
};
struct emulated_event {
  bool recorded = false, captured = false;
};

namespace emulation {

bool events_wait = false;
long event_waits = 0;

namespace {

int global_captures = 0;
thread_local int own_captures = 0;  // that are not Relaxed
thread_local cudaStreamCaptureMode mode_of_thread = cudaStreamCaptureModeGlobal;

void count_capture(cudaStreamCaptureMode mode, int by) {
  if (mode == cudaStreamCaptureModeGlobal) global_captures += by;
  if (mode != cudaStreamCaptureModeRelaxed) own_captures += by;
}

}  // namespace

cudaError_t capture_permits() {
  const bool permits =
      mode_of_thread == cudaStreamCaptureModeRelaxed || (!global_captures && !own_captures);
  return permits ? cudaSuccess : last_error = cudaErrorStreamCaptureUnsafe;
}

bool has_unmarked_copies(cudaStream_t stream) { return stream->unmarked_copies; }
void count_copy(cudaStream_t stream) {
  if (stream) stream->unmarked_copies = true;
}

bool record(cudaStream_t stream, const std::function<void()>& work) {
  if (!stream || !stream->captured) return false;
  stream->captured->work.push_back(work);
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

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  if (!stream || stream->captured) return last_error = cudaErrorStreamCaptureUnsupported;
  stream->captured = std::make_unique<emulated_graph>();
  stream->mode = mode;
  count_capture(mode, 1);
  return cudaSuccess;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, mode_of_thread);
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status =
      stream && stream->captured ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                     unsigned long long*, cudaGraph_t* graph) {
  *graph = stream ? stream->captured.get() : nullptr;
  return cudaStreamIsCapturing(stream, status);
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (!stream || !stream->captured) return last_error = cudaErrorStreamCaptureUnsupported;
  *graph = stream->captured.release();
  count_capture(stream->mode, -1);
  return cudaSuccess;
}

cudaError_t cudaUserObjectCreate(cudaUserObject_t* object, void* data, cudaHostFn_t destroy,
                                 unsigned references, unsigned flags) {
  if (references != 1 || flags != cudaUserObjectNoDestructorSync)
    return last_error = cudaErrorInvalidValue;
  *object = new emulated_user_object{data, destroy};
  return cudaSuccess;
}
cudaError_t cudaUserObjectRelease(cudaUserObject_t object, unsigned) {
  delete object;
  return cudaSuccess;
}
cudaError_t cudaGraphRetainUserObject(cudaGraph_t graph, cudaUserObject_t object,
                                      unsigned references, unsigned flags) {
  if (!graph || references != 1 || flags != cudaGraphUserObjectMove)
    return last_error = cudaErrorInvalidValue;
  graph->objects.emplace_back(object);
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
  for (const auto& work : executable->work) work();
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
  *event = new emulated_event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  event->recorded = true;
  event->captured = stream && stream->captured;
  if (stream) stream->unmarked_copies = false;
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (const cudaError_t error = capture_permits()) return error;
  if (event->captured) return last_error = cudaErrorCapturedEvent;
  event_waits += events_wait && event->recorded;
  event->recorded = false;
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (const cudaError_t error = capture_permits()) return error;
  if (event->captured) return last_error = cudaErrorCapturedEvent;
  return events_wait && event->recorded ? last_error = cudaErrorNotReady : cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
