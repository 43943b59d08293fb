// Stands in for CUDA's <cuda_runtime.h>, so that .cu files compile as C++ and their kernels run on
// the CPU: put this folder first on the include path. What csrc/cuda does not use is left out.
#pragma once
#include <cmath>
#include <cstdio>
#include <cstring>
#include <tuple>
#include <utility>

#include "emulation/atomics.h"
#include "emulation/emulation.h"
#include "emulation/types.h"
#include "emulation/warp.h"

inline int __syncthreads_count(int predicate, EMULATION_WHERE) {
  return emulation::block_barrier(0, blockDim.x * blockDim.y * blockDim.z, true, predicate != 0,
                                  "__syncthreads", where);
}
inline void __syncthreads(EMULATION_WHERE) { __syncthreads_count(0, where); }
inline int __syncthreads_or(int predicate, EMULATION_WHERE) {
  return __syncthreads_count(predicate, where) != 0;
}
inline int __syncthreads_and(int predicate, EMULATION_WHERE) {
  return __syncthreads_count(!predicate, where) == 0;
}
inline void __trap() { emulation::trap(); }
template <class T>
T __ldg(const T* address) {
  return *address;
}
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }

cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned version,
                                             unsigned long long flags,
                                             cudaDriverEntryPointQueryResult* result);

// Everything is done at once, so that one stream is like another, but for those that are captured.
cudaError_t cudaStreamCreate(cudaStream_t* stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status);
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                     unsigned long long* id, cudaGraph_t* graph);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
// Where the thread has not said Relaxed, pinned memory and events may not be asked for or about
// while a stream is captured.
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode);
// Freed with the last graph, or executable graph, that retains it.
cudaError_t cudaUserObjectCreate(cudaUserObject_t* object, void* data, cudaHostFn_t destroy,
                                 unsigned references, unsigned flags);
cudaError_t cudaUserObjectRelease(cudaUserObject_t object, unsigned references);
cudaError_t cudaGraphRetainUserObject(cudaGraph_t graph, cudaUserObject_t object,
                                      unsigned references, unsigned flags);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventDestroy(cudaEvent_t event);

// Poisoned, and aligned to 256 bytes as on the device.
cudaError_t emulated_malloc(void** address, size_t bytes);
template <class T>
cudaError_t cudaMalloc(T** address, size_t bytes) {
  return emulated_malloc(reinterpret_cast<void**>(address), bytes);
}
cudaError_t cudaFree(void* address);
cudaError_t cudaHostAlloc(void** address, size_t bytes, unsigned flags);
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemset(void* address, int byte, size_t bytes);

template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute attribute,
                                 int value) {
  return emulation::set_attribute(reinterpret_cast<const void*>(kernel), attribute, value);
}

template <class... Parameters>
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, void (*kernel)(Parameters...),
                                           const cudaLaunchConfig_t* config) {
  emulation::LaunchShape shape;
  *clusters = 0;
  const cudaError_t error =
      emulation::read_launch_shape(*config, reinterpret_cast<const void*>(kernel), shape);
  if (error != cudaSuccess) return emulation::last_error = error;
  *clusters = emulation::device.multiprocessors /
              static_cast<int>(shape.cluster.x * shape.cluster.y * shape.cluster.z);
  return cudaSuccess;
}

template <class... Parameters, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Args&&... args) {
  const void* address = reinterpret_cast<const void*>(kernel);
  emulation::LaunchShape shape;
  const cudaError_t error = emulation::read_launch_shape(*config, address, shape);
  if (error != cudaSuccess) return emulation::last_error = error;
  const std::tuple<Parameters...> parameters(static_cast<Parameters>(args)...);
  const auto run = [=] {
    ++emulation::launches;
    emulation::run_grid(shape, address, [&] { std::apply(kernel, parameters); });
  };
  if (!emulation::record(config->stream, run)) run();
  return cudaSuccess;
}
