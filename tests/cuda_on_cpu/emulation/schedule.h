// Which thread runs when, and what threads wait for.
//
// Blocks run one at a time, those of a cluster (or of a cooperative grid) together, in a shuffled
// order. A thread is a fiber: it runs until it has to wait; which comes next is chosen at random.
#pragma once
#include <cuda_runtime.h>

#include <array>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "async.h"
#include "fiber.h"
#include "shared.h"

namespace emulation {

struct Block;
struct Cluster;

// The accumulators of wgmma instructions that are under way.
struct Accumulators {
  std::vector<float> value;
  int in_flight = 0;
};

// Lanes of `mask` that are to meet.
struct Meeting {
  uint32_t mask, arrived;
  Exchange* exchange;
};

// What its lanes do, a bit for each that there is. A lane in none of the first five waits at a
// barrier of the block or the grid.
struct Warp {
  uint32_t ready, meeting, polling, at_cluster, left, lanes;
  std::vector<Meeting> meetings;  // that lanes wait for

  void start(size_t threads);
};

// What the scheduler reads at every turn comes first.
struct Thread {
  Fiber fiber;
  Block* block = nullptr;
  Warp* warp = nullptr;
  int index = 0;           // in the block
  bool under_way = false;  // something is, in `copies`, `bulk_stores` or `products`
  const char* what = "";   // it waits for, or did last
  Where where;
  std::function<bool()> condition;  // it polls
  int barrier_result = 0;
  bool cluster_arrived = false;
  long cluster_phase = 0;  // when it arrived
  AsyncQueue copies{false}, bulk_stores{false}, products{true};
  std::map<float*, Accumulators> accumulators;
  bool products_fenced = false;

  int lane() const { return index % warpSize; }
  uint32_t lane_bit() const { return 1u << lane(); }
  void set_ready(bool ready) {
    warp->ready = (warp->ready & ~lane_bit()) | (ready ? lane_bit() : 0);
  }
  // Lets others run; it goes on once it is among its warp's ready lanes.
  void pause(const char* waits_for, Where at) {
    what = waits_for;
    where = at;
    fiber.pause();
  }
  void issue(AsyncQueue& queue, AsyncQueue::Work work);  // one of its own
  void let_time_pass();
};

struct Barrier {
  int arrived = 0, expected = 0, predicates = 0;
  std::vector<Thread*> waiting;
};

// A copy that an mbarrier is told of.
struct BulkCopy {
  std::function<void()> copy;
  size_t bytes;
  uint64_t* barrier;
  bool late;  // only once nothing else can go on
};

struct Block {
  dim3 index;
  Cluster* cluster = nullptr;
  unsigned rank = 0;
  std::vector<Thread*> threads;
  std::vector<Warp> warps;
  int left = 0;  // threads that have
  bool started = false;
  std::array<Barrier, kBarriers> barriers;
  SharedMemory shared;
  std::vector<BulkCopy> copies;
};

struct Cluster {
  std::vector<Block*> blocks;
  int threads = 0, arrived = 0, left_without_arriving = 0;
  long phase = 0;
};

// The launch under way.
struct Grid {
  const char* kernel = "";  // its name
  dim3 cluster_size;
  bool cooperative = false;
  int threads = 0;
  std::vector<Thread*> waiting;
};

// The thread that runs wants other warps to have their turn when it waits, before its warp's
// others.
extern bool leave_warp;

Thread& running();
Grid& grid();
std::mt19937& schedule();
bool one_in(unsigned n);

std::string place_of(const Thread& thread);  // "thread (1,0,0) of block (2,0,0)"
// If all of its threads have arrived at its barrier, or left the kernel.
void let_cluster_go_on(Cluster& cluster);

void land(Block& block, size_t copy);

}  // namespace emulation
