// The schedule of a block's threads, as fibers that switch stacks (x86-64, System V ABI).
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;

// Saves the callee-saved registers and the stack pointer in *from, then continues at `to`.
extern "C" void emulation_switch(void** from, void* to);
asm(R"(
.text
.globl emulation_switch
emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

namespace emulation {

long launches = 0;
cudaError_t next_launch_error = cudaSuccess, last_error = cudaSuccess;
unsigned char shuffled[2][kMaxThreads][16];

namespace {

constexpr size_t kStackBytes = 64 * 1024;
constexpr int kSavedRegisters = 6;  // as many as emulation_switch pops

enum class State { ready, at_block_barrier, at_warp_barrier, done };

struct Fiber {
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  void* stack_pointer = nullptr;
  State state = State::done;
  int turn = 1;  // the last one taken
};

std::vector<Fiber> fibers;  // [kMaxThreads at most], kept for the next block
void* scheduler_stack_pointer;
int current;  // index of the fiber that runs
const std::function<void()>* kernel_of_thread;
std::mt19937 schedule;

void pause(State why) {
  fibers[current].state = why;
  emulation_switch(&fibers[current].stack_pointer, scheduler_stack_pointer);
}

void fiber_main() {
  (*kernel_of_thread)();
  pause(State::done);
  abort();
}

// Lays the stack out as emulation_switch leaves it.
void start(Fiber& fiber) {
  const uintptr_t end = reinterpret_cast<uintptr_t>(fiber.stack.get()) + kStackBytes;
  void** top = reinterpret_cast<void**>(end & ~uintptr_t{15});
  *--top = nullptr;  // fiber_main's return address, unused: the ABI's alignment wants it there
  *--top = reinterpret_cast<void*>(&fiber_main);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
  fiber.stack_pointer = top;
  fiber.state = State::ready;
  fiber.turn = 1;
}

int count(State state, int begin, int end) {
  return static_cast<int>(std::count_if(fibers.begin() + begin, fibers.begin() + end,
                                        [&](const Fiber& fiber) { return fiber.state == state; }));
}

void release(int begin, int end) {
  for (int t = begin; t < end; ++t) fibers[t].state = State::ready;
}

void run_until_it_waits(int t) {
  current = t;
  threadIdx = dim3(t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y);
  emulation_switch(&scheduler_stack_pointer, fibers[t].stack_pointer);
}

// Runs the warp's ready threads, in a random order.
void run_warp(int begin, int end) {
  int order[kWarp];
  std::iota(order, order + (end - begin), begin);
  std::shuffle(order, order + (end - begin), schedule);
  for (int i = 0; i < end - begin; ++i)
    if (fibers[order[i]].state == State::ready) run_until_it_waits(order[i]);
  if (count(State::at_warp_barrier, begin, end) == end - begin) release(begin, end);
}

void run_block(int threads) {
  if (static_cast<int>(fibers.size()) < threads) fibers.resize(threads);
  for (int t = 0; t < threads; ++t) start(fibers[t]);
  std::vector<int> warps;  // first thread of each
  for (int begin = 0; begin < threads; begin += kWarp) warps.push_back(begin);

  // In half of the blocks each warp runs on until __syncthreads stops it, so that warps drift as
  // far apart as these let them; in the others warps keep step.
  const bool drift = schedule() % 2;
  for (;;) {
    std::shuffle(warps.begin(), warps.end(), schedule);
    for (int begin : warps) {
      const int end = std::min(begin + kWarp, threads);
      do {
        run_warp(begin, end);
      } while (drift && count(State::ready, begin, end) > 0);
    }
    const int done = count(State::done, 0, threads);
    if (done == threads) return;
    if (count(State::ready, 0, threads) > 0) continue;
    // Stricter than GPUs are: threads that have left the kernel are missed at a barrier.
    const int at_barrier = count(State::at_block_barrier, 0, threads);
    if (at_barrier < threads) {
      fprintf(stderr,
              "deadlock: of %d threads %d have left the kernel, %d are at __syncthreads, the "
              "others at a shuffle\n",
              threads, done, at_barrier);
      abort();
    }
    release(0, threads);
  }
}

}  // namespace

void seed(unsigned value) { schedule.seed(value); }
void block_barrier() { pause(State::at_block_barrier); }
void warp_barrier() { pause(State::at_warp_barrier); }
int thread_in_block() { return current; }
int next_turn() { return fibers[current].turn ^= 1; }

void trap() {
  fflush(stdout);
  _Exit(kTrapExitCode);
}

void run_grid(dim3 grid, dim3 block, const std::function<void()>& thread) {
  kernel_of_thread = &thread;
  gridDim = grid;
  blockDim = block;
  std::vector<unsigned> blocks(grid.x);
  std::iota(blocks.begin(), blocks.end(), 0u);
  std::shuffle(blocks.begin(), blocks.end(), schedule);
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x : blocks) {
        blockIdx = dim3(x, y, z);
        run_block(static_cast<int>(block.x * block.y * block.z));
      }
}

}  // namespace emulation
