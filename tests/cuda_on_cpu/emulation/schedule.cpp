#include "schedule.h"

#include <cxxabi.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

bool leave_warp = false;

namespace {

Thread* current = nullptr;
const std::function<void()>* kernel_of_thread;
Grid the_grid;
std::mt19937 random_numbers, random_poison;  // apart: the poison leaves the schedule as it is

// How far threads may drift apart; drawn for each group of blocks that run together.
enum class Manner {
  in_step,  // the warps take turns, from one wait to the next
  adrift,   // each warp runs on until all of its threads wait for others
  by_rank,  // so does each, but always the first in a fixed order that can go on
  kCount,
};

void shuffle(auto& items) { std::shuffle(items.begin(), items.end(), random_numbers); }

void finish_thread() {
  Thread& thread = *current;
  thread.copies.wait_for_all();
  thread.bulk_stores.wait_for_all();
  if (!thread.products.idle())
    fail("leaves while wgmma still writes its accumulators", thread.where);
  Block& block = *thread.block;
  Cluster& cluster = *block.cluster;
  thread.set_ready(false);
  thread.warp->left |= thread.lane_bit();
  ++block.left;
  // Those who have left are not missed at a barrier of the cluster.
  if (!thread.cluster_arrived) {
    ++cluster.left_without_arriving;
    let_cluster_go_on(cluster);
  }
}

void thread_main() {
  (*kernel_of_thread)();
  finish_thread();
  current->fiber.pause();
  abort();
}

dim3 place_in(unsigned index, dim3 size) {
  if (index < size.x) return dim3(index, 0, 0);  // divisions are dear
  return dim3(index % size.x, index / size.x % size.y, index / size.x / size.y);
}

void run_until_it_waits(Thread& thread) {
  current = &thread;
  threadIdx = place_in(thread.index, blockDim);
  thread.let_time_pass();
  thread.fiber.resume();
  current = nullptr;
}

bool can_go_on(const Block& block) {
  return !block.copies.empty() || std::any_of(block.warps.begin(), block.warps.end(),
                                              [](auto& warp) { return warp.ready | warp.polling; });
}

// Runs the warp's ready threads up to one that leaves it; whether there were any. Their order is
// drawn at once: a polynomial modulo the warp's size that takes each value once, as its second
// coefficient is odd and its third even.
bool run_warp(Block& block, int begin) {
  Warp& warp = block.warps[begin / warpSize];
  if (!(warp.ready | warp.polling)) return false;
  const uint32_t random = random_numbers(), odd = random >> 8 | 1, even = random >> 16 << 1;
  bool any = false;
  for (uint32_t i = 0; i < warpSize; ++i) {
    const uint32_t lane = (random + i * (odd + i * even)) % warpSize, bit = 1u << lane;
    if (!((warp.ready | warp.polling) & bit)) continue;
    Thread& thread = *block.threads[begin + lane];
    if (warp.polling & bit) {
      current = &thread;
      if (thread.condition()) warp.polling &= ~bit, warp.ready |= bit;
      current = nullptr;
    }
    if (!(warp.ready & bit)) continue;
    any = true;
    leave_warp = false;
    run_until_it_waits(thread);
    if (leave_warp) break;
  }
  return any;
}

std::string text_of(dim3 index) {
  return "(" + std::to_string(index.x) + "," + std::to_string(index.y) + "," +
         std::to_string(index.z) + ")";
}

std::string text_of(Where where) {
  std::string file = where.file_name();
  return file.substr(file.find_last_of('/') + 1) + ":" + std::to_string(where.line());
}

void leave_block(Block& block) {
  if (!block.copies.empty()) {
    current = block.threads[0];
    fail("the block has left while a bulk copy into its shared memory is under way",
         current->where);
  }
  if (!block.shared.intact()) {
    current = block.threads[0];
    fail("the block has written outside its dynamic shared memory", current->where);
  }
  block.shared.end();
}

void enter_block(Block& block) {
  if (!block.started) {
    block.started = true;
    block.shared.start();
  }
  block.shared.swap_in();
  blockIdx = block.index;
  for (size_t c = block.copies.size(); c-- > 0;)
    if (!block.copies[c].late && one_in(4)) land(block, c);
}

// Runs the block's threads as far as `manner` says; whether any went on.
bool run_block(Block& block, std::vector<int>& warps, Manner manner) {
  bool any = false;
  for (size_t w = 0; w < warps.size(); ++w) {
    bool went_on = run_warp(block, warps[w]);
    any |= went_on;
    // A warp that polls memory could go on for ever.
    for (int turns = 0; turns < 100 && went_on && !leave_warp && manner != Manner::in_step; ++turns)
      went_on = run_warp(block, warps[w]);
  }
  return any;
}

std::string demangled(const char* name) {
  int status = 0;
  char* text = abi::__cxa_demangle(name, nullptr, nullptr, &status);
  std::string result = text ? text : name;
  free(text);
  for (const char* noise : {"(anonymous namespace)::", "void ", "gdext::cuda::", "gdext::"})
    for (size_t at; (at = result.find(noise)) != std::string::npos;)
      result.erase(at, strlen(noise));
  // Without the parameters.
  int depth = 0;
  for (size_t i = 0; i < result.size(); ++i) {
    if (result[i] == '<') ++depth;
    if (result[i] == '>') --depth;
    if (result[i] == '(' && depth == 0) return result.substr(0, i);
  }
  return result;
}

// Made at the kernel's first launch: too much work for the stack of a thread that fails.
const char* name_of(const void* kernel) {
  static std::map<const void*, std::string> names;
  const auto found = names.find(kernel);
  if (found != names.end()) return found->second.c_str();
  return (names[kernel] = demangled(mangled_name(kernel))).c_str();
}

[[noreturn]] void report_deadlock(const std::vector<Block*>& blocks) {
  std::string text;
  std::map<std::string, int> waits;
  int all = 0, left = 0;
  for (Block* block : blocks)
    for (Thread* thread : block->threads) {
      ++all;
      if (thread->warp->left & thread->lane_bit())
        ++left;
      else if (++waits[std::string(thread->what) + " (" + text_of(thread->where) + ")"] == 1)
        text += ", " + place_of(*thread) + " waits at " + thread->what + " (" +
                text_of(thread->where) + ")";
    }
  text += "; in all";
  for (const auto& [what, count] : waits) text += ", " + std::to_string(count) + " at " + what;
  fprintf(stderr, "kernel %s: deadlock: of %d threads %d have left the kernel%s\n", the_grid.kernel,
          all, left, text.c_str());
  fflush(nullptr);
  _Exit(kErrorExitCode);
}

// Runs blocks side by side to their end.
void run_together(std::vector<Block*> blocks, size_t dynamic_shared) {
  const bool alone = blocks.size() == 1;
  const auto manner = Manner(random_numbers() % int(Manner::kCount));
  std::vector<int> warps;  // first thread of each
  for (size_t begin = 0; begin < blocks[0]->threads.size(); begin += warpSize)
    warps.push_back(begin);
  shuffle(warps);
  shuffle(blocks);
  for (Block* block : blocks) block->shared.prepare(dynamic_shared, alone);
  for (size_t left = 0; left < blocks.size();) {
    if (manner != Manner::by_rank) {
      shuffle(warps);
      shuffle(blocks);
    }
    bool any = false;
    for (Block* block : blocks) {
      const size_t threads = block->threads.size();
      if (!can_go_on(*block)) continue;
      enter_block(*block);
      const bool went_on = run_block(*block, warps, manner);
      any |= went_on;
      if (block->left == static_cast<int>(threads)) {
        leave_block(*block);
        ++left;
      }
      block->shared.swap_out();
      if (went_on && manner == Manner::by_rank && !one_in(8)) break;
    }
    if (any) continue;
    std::vector<Block*> waiting;
    for (Block* block : blocks)
      if (!block->copies.empty()) waiting.push_back(block);
    if (waiting.empty()) report_deadlock(blocks);
    Block& block = *waiting[random_numbers() % waiting.size()];
    enter_block(block);
    if (!block.copies.empty()) land(block, random_numbers() % block.copies.size());
    block.shared.swap_out();
  }
  for (Block* block : blocks)
    if (!alone && !block->shared.untouched()) {
      current = block->threads[0];
      fail("another block has written to this block's shared memory after this one had left",
           current->where);
    }
}

}  // namespace

Thread& running() {
  if (current) return *current;
  fprintf(stderr, "a device function was called on the host\n");
  fflush(nullptr);
  _Exit(kErrorExitCode);
}
Grid& grid() { return the_grid; }
std::mt19937& schedule() { return random_numbers; }
bool one_in(unsigned n) { return random_numbers() % n == 0; }
void seed(unsigned value) {
  random_numbers.seed(value);
  random_poison.seed(value);
}

std::string place_of(const Thread& thread) {
  return "thread " + text_of(place_in(thread.index, blockDim)) + " of block " +
         text_of(thread.block->index);
}

void Warp::start(size_t threads) {
  lanes = threads < warpSize ? (1u << threads) - 1 : 0xffffffffu;
  ready = lanes;
  meeting = polling = at_cluster = left = 0;
  meetings.clear();
}

void fail(const std::string& what, Where where) {
  fprintf(stderr, "kernel %s, %s: %s (%s)\n", the_grid.kernel,
          current ? place_of(*current).c_str() : "on the host", what.c_str(),
          text_of(where).c_str());
  fflush(nullptr);
  _Exit(kErrorExitCode);
}

void trap() {
  fflush(nullptr);
  _Exit(kTrapExitCode);
}

// Where a sanitizer or a signal ends the process.
void print_place() {
  if (!current) return;
  fprintf(stderr, "in kernel %s, %s, after %s (%s)\n", the_grid.kernel, place_of(*current).c_str(),
          *current->what ? current->what : "its start", text_of(current->where).c_str());
  fflush(nullptr);
}

void run_grid(const LaunchShape& shape, const void* kernel, const std::function<void()>& thread) {
  // Kept for the next launch: fibers are dear.
  static std::vector<std::unique_ptr<Thread>> threads;
  static std::vector<std::unique_ptr<Block>> blocks;

  kernel_of_thread = &thread;
  poison = random_poison() % 2 ? kFinitePoison : kPoison;
  forget_used_shared();
  gridDim = shape.grid;
  blockDim = shape.block;
  const size_t block_threads = shape.block.x * shape.block.y * shape.block.z;
  const dim3 of_clusters(shape.grid.x / shape.cluster.x, shape.grid.y / shape.cluster.y,
                         shape.grid.z / shape.cluster.z);
  const size_t all_clusters = size_t{of_clusters.x} * of_clusters.y * of_clusters.z;
  const size_t cluster_blocks = shape.cluster.x * shape.cluster.y * shape.cluster.z;
  const size_t together = shape.cooperative ? all_clusters : 1;  // clusters
  the_grid = {.kernel = name_of(kernel),
              .cluster_size = shape.cluster,
              .cooperative = shape.cooperative,
              .threads = static_cast<int>(all_clusters * cluster_blocks * block_threads),
              .waiting = {}};
  while (threads.size() < together * cluster_blocks * block_threads)
    threads.push_back(std::make_unique<Thread>());
  while (blocks.size() < together * cluster_blocks) blocks.push_back(std::make_unique<Block>());

  std::vector<unsigned> order(all_clusters);
  std::iota(order.begin(), order.end(), 0u);
  shuffle(order);
  for (size_t first = 0; first < all_clusters; first += together) {
    std::vector<Block*> group;
    std::vector<std::unique_ptr<Cluster>> clusters;
    for (size_t c = first; c < first + together; ++c) {
      Cluster& cluster = *clusters.emplace_back(std::make_unique<Cluster>());
      cluster.threads = cluster_blocks * block_threads;
      const dim3 corner = place_in(order[c], of_clusters);
      for (unsigned rank = 0; rank < cluster_blocks; ++rank) {
        const dim3 inside = place_in(rank, shape.cluster);
        Block& block = *blocks[group.size()];
        block.index =
            dim3(corner.x * shape.cluster.x + inside.x, corner.y * shape.cluster.y + inside.y,
                 corner.z * shape.cluster.z + inside.z);
        block.cluster = &cluster;
        block.rank = rank;
        block.left = 0;
        block.started = false;
        block.barriers = {};
        block.copies.clear();
        block.threads.clear();
        block.warps.resize((block_threads + warpSize - 1) / warpSize);
        for (size_t w = 0; w < block.warps.size(); ++w)
          block.warps[w].start(block_threads - w * warpSize);
        for (size_t t = 0; t < block_threads; ++t) {
          Thread& of_block = *threads[group.size() * block_threads + t];
          of_block.block = &block;
          of_block.index = t;
          of_block.warp = &block.warps[t / warpSize];
          of_block.what = "";
          of_block.cluster_arrived = of_block.products_fenced = false;
          of_block.fiber.start(thread_main);
          block.threads.push_back(&of_block);
        }
        cluster.blocks.push_back(&block);
        group.push_back(&block);
      }
    }
    run_together(group, shape.dynamic_shared);
  }
}

}  // namespace emulation
