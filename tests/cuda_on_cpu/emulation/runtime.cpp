// The runtime's functions: launches, attributes, memory.
#include <cuda_runtime.h>
#include <signal.h>

#include <cstdlib>
#include <map>

#include "shared.h"

extern "C" void __sanitizer_set_death_callback(void (*)()) __attribute__((weak));

namespace emulation {

long launches = 0, graph_launches = 0, host_allocations = 0;
cudaError_t next_launch_error = cudaSuccess, next_graph_error = cudaSuccess,
            next_host_error = cudaSuccess, last_error = cudaSuccess;
Device device;
void print_place();

namespace {

struct Allowed {
  size_t dynamic_shared;
  bool large_clusters = false;
};
std::map<const void*, Allowed> allowed;  // what cudaFuncSetAttribute has been told
std::map<const void*, size_t> pinned;    // bytes at each address of cudaHostAlloc's

Allowed& allowed_of(const void* kernel) {
  const size_t of_statics = static_shared_bytes_of(mangled_name(kernel));
  return allowed.try_emplace(kernel, Allowed{device.shared_bytes - of_statics}).first->second;
}

size_t count(dim3 size) { return size_t{size.x} * size.y * size.z; }

bool is_pinned(const void* address, size_t bytes) {
  const auto after = pinned.upper_bound(address);
  if (after == pinned.begin()) return false;
  const auto& [begin, size] = *std::prev(after);
  return static_cast<const char*>(address) + bytes <= static_cast<const char*>(begin) + size;
}

// Says which thread it was that a sanitizer or a signal stops.
[[maybe_unused]] void on_signal(int number) {
  fprintf(stderr, "signal %d (%s)\n", number, strsignal(number));
  print_place();
  _Exit(kErrorExitCode);
}
const bool watched = [] {
  if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(print_place);
#if !defined(__SANITIZE_ADDRESS__)
  static char stack[64 * 1024];  // a fiber's own may be what has run out
  stack_t alternative = {};
  alternative.ss_sp = stack;
  alternative.ss_size = sizeof(stack);
  sigaltstack(&alternative, nullptr);
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_ONSTACK;
  for (int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigaction(number, &action, nullptr);
#endif
  return true;
}();

}  // namespace

cudaError_t set_attribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    const size_t of_statics = static_shared_bytes_of(mangled_name(kernel));
    if (value < 0 || value + of_statics > device.shared_bytes_optin)
      return last_error = cudaErrorInvalidValue;
    allowed_of(kernel).dynamic_shared = value;
  }
  if (attribute == cudaFuncAttributeNonPortableClusterSizeAllowed)
    allowed_of(kernel).large_clusters = value != 0;
  return cudaSuccess;
}

cudaError_t read_launch_shape(const cudaLaunchConfig_t& config, const void* kernel,
                              LaunchShape& shape) {
  shape = {config.gridDim, config.blockDim, dim3(), config.dynamicSmemBytes};
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const cudaLaunchAttribute& attribute = config.attrs[i];
    if (attribute.id == cudaLaunchAttributeCooperative)
      shape.cooperative = attribute.val.cooperative;
    if (attribute.id == cudaLaunchAttributeClusterDimension)
      shape.cluster =
          dim3(attribute.val.clusterDim.x, attribute.val.clusterDim.y, attribute.val.clusterDim.z);
  }
  const dim3 &grid = shape.grid, &block = shape.block, &cluster = shape.cluster;
  if (const cudaError_t error = std::exchange(next_launch_error, cudaSuccess)) return error;
  if (count(grid) == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 ||
      count(block) == 0 || count(block) > kMaxThreads || block.z > 64)
    return cudaErrorInvalidConfiguration;
  const Allowed& limits = allowed_of(kernel);
  if (shape.dynamic_shared > limits.dynamic_shared) return cudaErrorInvalidValue;
  const unsigned largest =
      limits.large_clusters ? device.cluster_blocks_optin : device.cluster_blocks;
  if (count(cluster) > 1 && device.major < 9) return cudaErrorInvalidConfiguration;
  if (count(cluster) == 0 || count(cluster) > largest || grid.x % cluster.x || grid.y % cluster.y ||
      grid.z % cluster.z)
    return cudaErrorInvalidClusterSize;
  // One block on each multiprocessor: fewer than may fit, never more.
  if (shape.cooperative && count(grid) > static_cast<size_t>(device.multiprocessors))
    return cudaErrorCooperativeLaunchTooLarge;
  return cudaSuccess;
}

}  // namespace emulation

using namespace emulation;

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
const char* cudaGetErrorString(cudaError_t) { return "an emulated error"; }
cudaError_t cudaSetDevice(int index) {
  return index == 0 ? cudaSuccess : last_error = cudaErrorInvalidValue;
}
cudaError_t cudaGetDevice(int* index) {
  *index = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const std::map<cudaDeviceAttr, int> values{
      {cudaDevAttrMaxSharedMemoryPerBlock, static_cast<int>(device.shared_bytes)},
      {cudaDevAttrMultiProcessorCount, device.multiprocessors},
      {cudaDevAttrComputeCapabilityMajor, device.major},
      {cudaDevAttrComputeCapabilityMinor, device.minor},
      {cudaDevAttrCooperativeLaunch, 1},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, static_cast<int>(device.shared_bytes_optin)},
      {cudaDevAttrClusterLaunch, device.major >= 9}};
  const auto found = values.find(attribute);
  if (found == values.end()) return last_error = cudaErrorInvalidValue;
  *value = found->second;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }

cudaError_t emulated_malloc(void** address, size_t bytes) {
  constexpr size_t kAlignment = 256;
  // posix_memalign, unlike aligned_alloc, takes any size: AddressSanitizer sees where it ends.
  if (posix_memalign(address, kAlignment, bytes)) return last_error = cudaErrorMemoryAllocation;
  memset(*address, kPoison, bytes);
  return cudaSuccess;
}
cudaError_t cudaFree(void* address) {
  free(address);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemset(void* address, int byte, size_t bytes) {
  memset(address, byte, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  cudaStreamCaptureStatus status;
  cudaStreamIsCapturing(stream, &status);
  if (status != cudaStreamCaptureStatusNone && kind == cudaMemcpyHostToDevice &&
      !is_pinned(from, bytes))
    return last_error = cudaErrorStreamCaptureUnsupported;
  if (record(stream, [=] { cudaMemcpy(to, from, bytes, kind); })) return cudaSuccess;
  count_copy(stream);
  return cudaMemcpy(to, from, bytes, kind);
}
cudaError_t cudaHostAlloc(void** address, size_t bytes, unsigned) {
  if (const cudaError_t error = capture_permits()) return error;
  if (const cudaError_t error = std::exchange(next_host_error, cudaSuccess))
    return last_error = error;
  if (const cudaError_t error = emulated_malloc(address, bytes)) return error;
  pinned[*address] = bytes;
  ++host_allocations;
  return cudaSuccess;
}
