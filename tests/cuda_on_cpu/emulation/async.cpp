// Copies and products that are under way while their thread goes on; mbarriers.
#include "async.h"

#include <cstring>

#include "copies.h"
#include "schedule.h"

namespace emulation {

void AsyncQueue::finish(Group& group) {
  for (Work& work : group) work();
  group.clear();
}

void AsyncQueue::issue(Work work) {
  if (!one_in(4)) {
    open_.push_back(std::move(work));
    return;
  }
  if (in_order_) wait_for_all();
  work();
}

void AsyncQueue::commit() {
  committed_.push_back(std::move(open_));
  open_.clear();
}

void AsyncQueue::wait(size_t left) {
  for (; committed_.size() > left; committed_.pop_front()) finish(committed_.front());
}

void AsyncQueue::wait_for_all() {
  wait(0);
  finish(open_);
}

void AsyncQueue::let_time_pass() {
  if (idle() || !one_in(16)) return;
  for (Group& group : committed_)
    if (!group.empty()) return finish(group);
}

void Thread::issue(AsyncQueue& queue, AsyncQueue::Work work) {
  queue.issue(std::move(work));
  under_way = true;
}

void Thread::let_time_pass() {
  if (!under_way) return;
  copies.let_time_pass();
  bulk_stores.let_time_pass();
  products.let_time_pass();
  under_way = !copies.idle() || !bulk_stores.idle() || !products.idle();
}

void async_copy(void* shared, const void* global, size_t bytes, size_t bytes_read, Where where) {
  if (bytes != 4 && bytes != 8 && bytes != 16) fail("cp.async of neither 4, 8 nor 16 bytes", where);
  if (bytes_read > bytes) fail("cp.async reads more than it writes", where);
  check_shared(shared, bytes, bytes, "cp.async to", where);
  if (bytes_read) check_global(global, bytes_read, bytes, "cp.async from", where);
  memset(shared, poison, bytes);
  Thread& me = running();
  me.issue(me.copies, [=] {
    memset(shared, 0, bytes);
    if (bytes_read) memcpy(shared, global, bytes_read);
  });
}
void commit_copies() { running().copies.commit(); }
void wait_for_copies(size_t groups_left) { running().copies.wait(groups_left); }
void wait_for_all_copies() { running().copies.wait_for_all(); }

namespace {

// An mbarrier's 64 bits; PTX leaves them to the hardware.
struct Mbarrier {
  static constexpr int kCountBits = 20;
  static constexpr uint64_t kMark = 2;  // tells it from either poison and from zeros

  uint64_t phase : 1 = 0, expected : kCountBits = 0, pending : kCountBits = 0;
  int64_t bytes : kCountBits + 1 = 0;  // still to come
  uint64_t mark : 2 = kMark;
};
static_assert(sizeof(Mbarrier) == sizeof(uint64_t));
static_assert(kPoison >> 6 != Mbarrier::kMark && kFinitePoison >> 6 != Mbarrier::kMark);

Mbarrier load(const uint64_t* barrier, const char* what, Where where) {
  check_shared(barrier, 8, 8, what, where);
  Mbarrier state;
  memcpy(static_cast<void*>(&state), barrier, sizeof(state));
  if (state.mark != Mbarrier::kMark)
    fail(std::string(what) + ": no mbarrier has been initialised there", where);
  return state;
}

void store(uint64_t* barrier, Mbarrier state) {
  if (state.pending == 0 && state.bytes == 0) {
    state.phase ^= 1;
    state.pending = state.expected;
  }
  memcpy(barrier, &state, sizeof(state));
}

}  // namespace

void mbarrier_init(uint64_t* barrier, unsigned count, Where where) {
  check_shared(barrier, 8, 8, "mbarrier.init", where);
  if (count == 0 || count >> Mbarrier::kCountBits) fail("mbarrier.init: its count", where);
  Mbarrier state;
  state.expected = state.pending = count;
  memcpy(barrier, &state, sizeof(state));
}

void mbarrier_arrive(uint64_t* barrier, unsigned bytes_to_come, Where where) {
  Mbarrier state = load(barrier, "mbarrier.arrive", where);
  if (state.pending == 0) fail("mbarrier.arrive: more arrivals than it was made for", where);
  state.bytes += bytes_to_come;
  --state.pending;
  store(barrier, state);
  // What it tells others of may be seen before the other lanes of its warp go on.
  leave_warp = one_in(4);
  if (leave_warp)
    running().pause("mbarrier.arrive", where);
  else
    maybe_yield("mbarrier.arrive", where);
}

bool mbarrier_test(const uint64_t* barrier, unsigned parity, Where where) {
  return load(barrier, "mbarrier.test_wait", where).phase != (parity & 1);
}

void mbarrier_wait(const uint64_t* barrier, unsigned parity, Where where) {
  wait_until([=] { return mbarrier_test(barrier, parity, where); }, "mbarrier.try_wait", where);
}

void bulk_load(void* shared, const void* global, unsigned bytes, uint64_t* barrier, Where where) {
  if (bytes % 16) fail("cp.async.bulk of a number of bytes that 16 does not divide", where);
  check_shared(shared, bytes, 16, "cp.async.bulk to", where);
  check_global(global, bytes, 16, "cp.async.bulk from", where);
  bulk_copy(shared, bytes, barrier, where, [=] { memcpy(shared, global, bytes); });
}

void bulk_copy(void* shared, size_t bytes, uint64_t* barrier, Where where,
               std::function<void()> copy) {
  load(barrier, "cp.async.bulk", where);
  memset(shared, poison, bytes);
  running().block->copies.push_back({std::move(copy), bytes, barrier, one_in(2)});
}

void land(Block& block, size_t which) {
  const BulkCopy copy = block.copies[which];
  block.copies.erase(block.copies.begin() + which);
  copy.copy();
  Mbarrier state;
  memcpy(static_cast<void*>(&state), copy.barrier, sizeof(state));
  state.bytes -= copy.bytes;
  store(copy.barrier, state);
}

void bulk_store(void* global, const void* shared, unsigned bytes, Where where) {
  if (bytes % 16) fail("cp.async.bulk of a number of bytes that 16 does not divide", where);
  check_shared(shared, bytes, 16, "cp.async.bulk from", where);
  check_global(global, bytes, 16, "cp.async.bulk to", where);
  Thread& me = running();
  me.issue(me.bulk_stores, [=] { memcpy(global, shared, bytes); });
}
void commit_bulk_stores() { running().bulk_stores.commit(); }
void wait_for_bulk_stores(size_t groups_left) { running().bulk_stores.wait(groups_left); }

}  // namespace emulation
