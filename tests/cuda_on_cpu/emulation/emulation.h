// What the stand-ins for CUDA's functions are made of. `where` is the line of the kernel, for
// messages.
#pragma once
#include <array>
#include <functional>
#include <memory>
#include <source_location>
#include <string>

#include "types.h"

namespace emulation {

using Where = std::source_location;

constexpr int kMaxThreads = 1024;      // per block
constexpr int kBarriers = 16;          // per block
constexpr int kTrapExitCode = 77;      // of the process, where a kernel calls __trap
constexpr int kErrorExitCode = 78;     // where a kernel does what it must not
constexpr size_t kOfferBytes = 64;     // that a lane may hand over
extern long launches, graph_launches;  // so far
extern long host_allocations;          // of pinned memory
extern long event_waits;               // of the host
extern cudaError_t next_launch_error;  // the next launch fails with it, once
extern cudaError_t next_graph_error;   // so does the next graph made executable
extern cudaError_t next_host_error;    // and the next allocation of pinned memory
extern cudaError_t last_error;         // what cudaGetLastError tells, once
extern bool events_wait;               // recorded events are not over until they are waited for

// The device; the defaults are an H100's.
struct Device {
  int major = 9, minor = 0;
  int multiprocessors = 132;
  size_t shared_bytes = 48 * 1024, shared_bytes_optin = 227 * 1024;
  unsigned cluster_blocks = 8, cluster_blocks_optin = 16;
};
extern Device device;

struct LaunchShape {
  dim3 grid, block, cluster;
  size_t dynamic_shared = 0;
  bool cooperative = false;
};

void seed(unsigned schedule);
cudaError_t read_launch_shape(const cudaLaunchConfig_t& config, const void* kernel,
                              LaunchShape& shape);
cudaError_t set_attribute(const void* kernel, cudaFuncAttribute attribute, int value);
// Whether the stream is captured: then the work, a launch or a copy, waits in its graph.
bool record(cudaStream_t stream, const std::function<void()>& work);
// cudaSuccess unless the thread must not do so while a stream is captured.
cudaError_t capture_permits();
// Whether the stream has copied since an event was last recorded on it.
bool has_unmarked_copies(cudaStream_t stream);
void count_copy(cudaStream_t stream);
void run_grid(const LaunchShape& shape, const void* kernel, const std::function<void()>& thread);

// Prints the kernel, the block, the thread and the line, and ends the process.
[[noreturn]] void fail(const std::string& what, Where where);
void trap();

// Sometimes lets others run first: what other threads may see of this one's memory depends on it.
void maybe_yield(const char* what, Where where);

// __syncthreads and bar.sync: returns how many threads' predicate was true.
int block_barrier(int id, int threads, bool wait, bool predicate, const char* what, Where where);
void cluster_arrive(Where where);
void cluster_wait(Where where);
void grid_barrier(Where where);
void wait_until(std::function<bool()> condition, const char* what, Where where);

// What the lanes in `lanes` have handed each other.
struct Exchange {
  uint32_t lanes;
  int readers = 0;
  size_t bytes;  // of each lane's offer
  alignas(kOfferBytes) std::array<unsigned char, kOfferBytes * warpSize> offers;

  void offer(int lane, const void* from);
  const unsigned char* of(int lane) const { return &offers[lane * bytes]; }
};
struct HasRead {
  void operator()(Exchange* exchange) const;
};
using ExchangeToRead = std::unique_ptr<Exchange, HasRead>;
// Waits for the lanes of `mask`, all of which must come with the same mask to the same line.
ExchangeToRead meet(uint32_t mask, const void* offer, size_t bytes, const char* what, Where where);
int lane();
uint32_t lanes_of_warp();  // that exist

unsigned char* dynamic_shared(Where where);
void* map_shared_rank(const void* address, unsigned rank, Where where);
unsigned cluster_rank();
dim3 cluster_size();
// Fails unless the bytes are in this block's shared memory, aligned.
void check_shared(const void* address, size_t bytes, size_t alignment, const char* what,
                  Where where);
void check_global(const void* address, size_t bytes, size_t alignment, const char* what,
                  Where where);
// A shared address as wgmma's descriptors hold it, and back.
uint32_t shared_address(const void* address, Where where);
const unsigned char* at_shared_address(uint32_t address, size_t bytes, Where where);

}  // namespace emulation
