// Stands in for CUDA's <cuda_runtime.h>, so that .cu files compile as C++ and their kernels run on
// the CPU: put this folder first on the include path. Only what csrc/cuda uses is here.
//
// Blocks run one at a time, in a shuffled order. The threads of a block are fibers: each runs until
// it reaches a barrier or a shuffle; which comes next is chosen at random (emulation.cpp).
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __grid_constant__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

using cudaStream_t = void*;
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDeviceFunction = 98,
  cudaErrorNoKernelImageForDevice = 209,
};
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor, cudaDevAttrComputeCapabilityMinor };
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  void* attrs;
  unsigned numAttrs;
};

namespace emulation {
constexpr int kWarp = 32;
constexpr int kMaxThreads = 1024;      // per block
constexpr int kTrapExitCode = 77;      // of the process, where a kernel calls __trap
extern long launches;                  // so far
extern cudaError_t next_launch_error;  // the next launch fails with it, once
extern cudaError_t last_error;         // what cudaGetLastError tells, once

void seed(unsigned schedule);
void run_grid(dim3 grid, dim3 block, const std::function<void()>& thread);
void block_barrier();
void warp_barrier();
void trap();
int thread_in_block();
// What each thread hands over in a shuffle. Two in turn: a warp's fastest thread writes the one
// while the slowest still reads the other, so that a shuffle takes only one barrier.
extern unsigned char shuffled[2][kMaxThreads][16];
int next_turn();  // 0, 1, 0, 1, ... for each thread
}  // namespace emulation

inline cudaError_t cudaGetLastError() { return std::exchange(emulation::last_error, cudaSuccess); }
inline const char* cudaGetErrorString(cudaError_t) { return "an emulated error"; }
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? 6 : 1;
  return cudaSuccess;
}

inline void __syncthreads() { emulation::block_barrier(); }
inline void __trap() { emulation::trap(); }

template <class T>
T __shfl_xor_sync(unsigned, T value, int lane_mask) {
  static_assert(sizeof(T) <= sizeof(emulation::shuffled[0][0]));
  const int me = emulation::thread_in_block();
  auto& values = emulation::shuffled[emulation::next_turn()];
  memcpy(values[me], &value, sizeof(T));
  emulation::warp_barrier();
  T result;
  memcpy(&result, values[me ^ lane_mask], sizeof(T));
  return result;
}

template <class... Parameters, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Args&&... args) {
  const dim3 grid = config->gridDim, block = config->blockDim;
  const unsigned threads = block.x * block.y * block.z;
  cudaError_t error = std::exchange(emulation::next_launch_error, cudaSuccess);
  if (grid.x == 0 || grid.y > 65535 || threads == 0 || threads > emulation::kMaxThreads)
    error = cudaErrorInvalidConfiguration;
  if (error != cudaSuccess) return emulation::last_error = error;
  ++emulation::launches;
  emulation::run_grid(grid, block, [&] { kernel(Parameters(args)...); });
  return cudaSuccess;
}
