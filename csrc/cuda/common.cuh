// What every CUDA file shares: the checked launch, and reductions over a warp or a block.
//
// Kernels are launched through launch() alone, on the caller's stream, and neither allocate nor
// wait (but for pinned.cuh) nor read device memory on the host, so that any op can be captured into
// a CUDA graph.
// Indices are 64-bit; grids are one-dimensional (the other dimensions end at 65535 blocks).
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>

#include "contract/common.h"

// The architectures this file is compiled for, as the build names them.
#ifndef GDEXT_CUDA_ARCHS
#define GDEXT_CUDA_ARCHS "an unrecorded list of architectures"
#endif

namespace gdext::cuda {

constexpr int kWarp = 32;
constexpr int kThreads = 256;  // per block, where a kernel has no reason to choose otherwise
// At least so many blocks of a kernel fit on a multiprocessor. Without that number nvcc 13 spills
// registers of many kernels for one block more, at an occupancy of its own choice.
constexpr int kBlocksAtOnce = 2;

GDEXT_HD constexpr int64_t ceil_div(int64_t n, int64_t by) { return (n + by - 1) / by; }

// kWidth elements that move together; their address must be a multiple of their size.
template <class T, int kWidth>
struct alignas(sizeof(T) * kWidth) Pack {
  T value[kWidth];
};

// 10 times the compute capability of the current device: 75, 80, ..., 120.
inline int compute_capability() {
  int device = 0, major = 0, minor = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  return 10 * major + minor;
}

// The capability that the code was written for which a device of `capability` runs, out of that for
// `archs`: machine code for a device of its major version or, translated by the driver, PTX for an
// older one, whose branches on __CUDA_ARCH__ are as old. `capability` where there is none.
constexpr int code_capability(std::string_view archs, int capability) {
  int newest = 0;
  while (!archs.empty()) {
    const std::string_view arch = archs.substr(0, archs.find(' '));
    archs.remove_prefix(std::min(arch.size() + 1, archs.size()));
    int number = 0;
    for (const char c : arch)
      if (c >= '0' && c <= '9') number = 10 * number + (c - '0');
    // That of 9.0a is for 9.0 alone.
    const bool serves_newer =
        arch.ends_with("+PTX") && arch.find_first_of("af") == std::string_view::npos;
    if (number <= capability && (serves_newer || number / 10 == capability / 10))
      newest = std::max(newest, number);
  }
  return newest ? newest : capability;
}
inline int code_capability() { return code_capability(GDEXT_CUDA_ARCHS, compute_capability()); }

// From cudaErrorIllegalAddress to cudaErrorLaunchFailure: a kernel died, and every call since then
// says so.
inline std::string hint_of(cudaError_t error) {
  if (error < 700 || error > 719) return "";
  return "; a kernel launched earlier, of any library, may be the one that failed: with "
         "CUDA_LAUNCH_BLOCKING=1 in the environment it is named";
}

// For what is no launch. `what` was asked of CUDA.
inline void check_cuda(const char* what, cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // forgets it: whoever asks next is not told of it again
  throw std::runtime_error(std::string("gdext: CUDA, ") + what + ": " + cudaGetErrorString(error) +
                           hint_of(error));
}

[[noreturn]] inline void throw_launch_error(const char* name, cudaError_t error) {
  std::string message =
      std::string("gdext: CUDA kernel ") + name + ": " + cudaGetErrorString(error);
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
    int device = 0;
    cudaGetDevice(&device);
    const int capability = compute_capability();
    message += "; gdext was compiled for " GDEXT_CUDA_ARCHS ", device " + std::to_string(device) +
               " has compute capability " + std::to_string(capability / 10) + "." +
               std::to_string(capability % 10);
  }
  throw std::runtime_error(message + hint_of(error));
}

// What a launch may ask for beside its blocks and threads.
struct LaunchShape {
  int64_t blocks;
  int threads;
  size_t dynamic_shared = 0;  // bytes
  int cluster = 1;            // blocks in each cluster, which divides `blocks`; more than 1: sm_90
  bool cooperative = false;   // all blocks run at the same time, and may wait for each other
};

// A shape as the runtime takes it; it points into itself.
struct LaunchConfig {
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute attributes[2] = {};  // their padding too

  LaunchConfig(const LaunchShape& shape, Context context) {
    config.gridDim = dim3(static_cast<unsigned>(shape.blocks));
    config.blockDim = dim3(static_cast<unsigned>(shape.threads));
    config.dynamicSmemBytes = shape.dynamic_shared;
    config.stream = static_cast<cudaStream_t>(context.stream);
    config.attrs = attributes;
    if (shape.cluster > 1) {
      cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim.x = static_cast<unsigned>(shape.cluster);
      attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    }
    if (shape.cooperative) {
      cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
      attribute.id = cudaLaunchAttributeCooperative;
      attribute.val.cooperative = 1;
    }
  }
  LaunchConfig(const LaunchConfig&) = delete;
  LaunchConfig& operator=(const LaunchConfig&) = delete;
};

// Asks for the kernel's consent, where it is needed: more dynamic shared memory than every kernel
// has, more blocks in a cluster than every device has.
template <class... Parameters>
cudaError_t allow_shape(void (*kernel)(Parameters...), const LaunchShape& shape) {
  constexpr size_t kShared = 48 * 1024;
  constexpr int kPortableCluster = 8;
  cudaError_t error = cudaSuccess;
  if (shape.dynamic_shared > kShared) {
    // All that there is, whatever is asked for: the kernel's limit is the process', and another
    // thread may be about to launch it with more.
    int device = 0, most = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
  }
  if (error == cudaSuccess && shape.cluster > kPortableCluster)
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  return error;
}

// How many clusters of this shape the device runs at the same time; 0 also where it has none.
template <class... Parameters>
int clusters_at_once(void (*kernel)(Parameters...), const LaunchShape& shape) {
  const LaunchConfig launch(shape, {});
  int clusters = 0;
  cudaError_t error = allow_shape(kernel, shape);
  if (error == cudaSuccess)
    error = cudaOccupancyMaxActiveClusters(&clusters, kernel, &launch.config);
  if (error == cudaSuccess) return clusters;
  cudaGetLastError();
  return 0;
}

// Launches kernel(args...); nothing where there are no blocks, which CUDA refuses. Throws
// std::runtime_error, with `name`, where CUDA reports an error.
template <class... Parameters, class... Args>
void launch(const char* name, void (*kernel)(Parameters...), const LaunchShape& shape,
            Context context, Args&&... args) {
  if (shape.blocks == 0) return;
  if (shape.blocks > std::numeric_limits<int32_t>::max())
    throw std::runtime_error(std::string("gdext: CUDA kernel ") + name +
                             ": wanted at most 2^31 - 1 blocks, the tensors need " +
                             std::to_string(shape.blocks));
  const LaunchConfig launch(shape, context);
  cudaError_t error = allow_shape(kernel, shape);
  if (error == cudaSuccess)
    error = cudaLaunchKernelEx(&launch.config, kernel, static_cast<Parameters>(args)...);
  if (error == cudaSuccess) return;
  cudaGetLastError();  // forgets it: whoever asks next is not told of it again
  throw_launch_error(name, error);
}
template <class... Parameters, class... Args>
void launch(const char* name, void (*kernel)(Parameters...), int64_t blocks, int threads,
            Context context, Args&&... args) {
  launch(name, kernel, LaunchShape{.blocks = blocks, .threads = threads}, context,
         static_cast<Args&&>(args)...);
}

struct Sum {
  template <class A>
  __device__ A operator()(A a, A b) const {
    return a + b;
  }
};
// Where one of the two is NaN the result depends on their order: callers see to it that NaN comes
// out by another way.
struct Max {
  template <class A>
  __device__ A operator()(A a, A b) const {
    return a > b ? a : b;
  }
};

// The reduction of `value` over the warp, on each of its lanes, always in the same order.
template <class A, class Op>
__device__ A warp_reduce(A value, Op op) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    value = op(value, __shfl_xor_sync(0xffffffffu, value, distance));
  return value;
}

// The same over the kThreads threads of a block; all of them must call it.
template <class A, class Op>
__device__ A block_reduce(A value, Op op) {
  constexpr int kWarps = kThreads / kWarp;
  __shared__ A of_warp[kWarps];
  value = warp_reduce(value, op);
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = value;
  __syncthreads();
  A total = of_warp[0];
  for (int warp = 1; warp < kWarps; ++warp) total = op(total, of_warp[warp]);
  __syncthreads();  // the next call writes of_warp again
  return total;
}

}  // namespace gdext::cuda
