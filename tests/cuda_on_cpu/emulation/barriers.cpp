// Barriers of a block, a warp, a cluster and a grid.
#include <bit>
#include <cstring>
#include <vector>

#include "schedule.h"

namespace emulation {
namespace {

void check_meeting(const Thread& thread, const Thread& other, const std::string& group) {
  const auto same = [](const char* a, const char* b) { return a == b || strcmp(a, b) == 0; };
  if (thread.where.line() == other.where.line() && same(thread.what, other.what) &&
      same(thread.where.file_name(), other.where.file_name()))
    return;
  fail("is at " + std::string(thread.what) + " while " + place_of(other) + ", of the same " +
           group + ", is at " + other.what + ", line " + std::to_string(other.where.line()),
       thread.where);
}

// Used again, as allocations are dear under AddressSanitizer.
std::vector<Exchange*> unused_exchanges;

Exchange& take_exchange() {
  if (unused_exchanges.empty()) unused_exchanges.push_back(new Exchange);
  Exchange& exchange = *unused_exchanges.back();
  unused_exchanges.pop_back();
  return exchange;
}

}  // namespace

void HasRead::operator()(Exchange* exchange) const {
  if (--exchange->readers == 0) unused_exchanges.push_back(exchange);
}

int block_barrier(int id, int count, bool wait, bool predicate, const char* what, Where where) {
  Thread& me = running();
  Block& block = *me.block;
  me.what = what;
  me.where = where;
  if (id < 0 || id >= kBarriers || count <= 0 || count % warpSize != 0)
    if (count != static_cast<int>(block.threads.size()))
      fail(std::string(what) + ": barrier " + std::to_string(id) + " of " + std::to_string(count) +
               " threads",
           where);
  Barrier& barrier = block.barriers[id];
  if (barrier.arrived == 0) {
    barrier.expected = count;
    barrier.predicates = 0;
  }
  if (barrier.expected != count)
    fail(std::string(what) + ": expects " + std::to_string(count) +
             " threads, while those that are there expect " + std::to_string(barrier.expected),
         where);
  // Threads of one block that stop at two lines pair up on a GPU; no kernel is meant to do so.
  if (wait && id == 0 && !barrier.waiting.empty()) check_meeting(me, *barrier.waiting[0], "block");
  ++barrier.arrived;
  barrier.predicates += predicate;
  if (wait) barrier.waiting.push_back(&me);
  const bool complete = barrier.arrived == barrier.expected;
  if (complete) {
    barrier.arrived = 0;
    for (Thread* thread : barrier.waiting) {
      thread->barrier_result = barrier.predicates;
      if (thread != &me) make_ready(*thread);
    }
    barrier.waiting.clear();
  }
  if (wait) wait_for(complete ? Waiting::nothing : Waiting::block_barrier, what, where);
  return me.barrier_result;
}

int lane() { return running().index % warpSize; }

uint32_t lanes_of_warp() {
  const Thread& me = running();
  const int lanes = me.block->threads.size() - me.index / warpSize * warpSize;
  return lanes >= warpSize ? 0xffffffffu : (1u << lanes) - 1;
}

ExchangeToRead meet(uint32_t mask, const void* offer, size_t bytes, const char* what, Where where) {
  Thread& me = running();
  const int my_lane = lane();
  if (!(mask >> my_lane & 1))
    fail(std::string(what) + ": lane " + std::to_string(my_lane) + " is not in its own mask",
         where);
  me.what = what;
  me.where = where;
  me.mask = mask & lanes_of_warp();
  if (bytes) memcpy(me.offer.data(), offer, bytes);
  if (const uint32_t left = me.mask & me.warp->left)
    fail(std::string(what) + ": its mask names lane " + std::to_string(std::countr_zero(left)) +
             ", which has left the kernel",
         where);

  // The last to come sees the others.
  const bool complete = (me.mask & ~me.warp->meeting) == me.lane_bit();
  if (complete) {
    Thread* const* warp = &me.block->threads[me.index - my_lane];
    Exchange& exchange = take_exchange();
    exchange.lanes = me.mask;
    exchange.readers = std::popcount(me.mask);
    for (uint32_t lanes = me.mask; lanes; lanes &= lanes - 1) {
      const int l = std::countr_zero(lanes);
      Thread& other = *warp[l];
      check_meeting(me, other, "warp");
      if (other.mask != me.mask)
        fail(std::string(what) + ": its mask names lane " + std::to_string(l) +
                 ", which has another mask",
             where);
      if (bytes) memcpy(exchange.offers[l].data(), other.offer.data(), bytes);
      other.exchange = &exchange;
      if (l != my_lane) make_ready(other);
    }
  }
  wait_for(complete ? Waiting::nothing : Waiting::warp, what, where);
  return ExchangeToRead(me.exchange);
}

void cluster_arrive(Where where) {
  Thread& me = running();
  Cluster& cluster = *me.block->cluster;
  if (me.cluster_arrived) fail("arrives twice at the cluster's barrier without waiting", where);
  me.cluster_arrived = true;
  me.cluster_phase = cluster.phase;
  ++cluster.arrived;
  let_cluster_go_on(cluster);
}

void let_cluster_go_on(Cluster& cluster) {
  if (cluster.arrived + cluster.left_without_arriving < cluster.threads) return;
  ++cluster.phase;
  cluster.arrived = 0;
  for (Block* block : cluster.blocks)
    for (Thread* thread : block->threads)
      if (thread->waiting == Waiting::cluster) make_ready(*thread);
}

void cluster_wait(Where where) {
  Thread& me = running();
  if (!me.cluster_arrived) fail("waits at the cluster's barrier without having arrived", where);
  const bool complete = me.block->cluster->phase != me.cluster_phase;
  wait_for(complete ? Waiting::nothing : Waiting::cluster, "the cluster's barrier", where);
  me.cluster_arrived = false;
}

void grid_barrier(Where where) {
  Grid& all = grid();
  if (!all.cooperative) fail("grid barrier in a launch that is not cooperative", where);
  const bool complete = ++all.arrived == all.threads;
  if (complete) {
    all.arrived = 0;
    for (Thread* thread : all.waiting) make_ready(*thread);
    all.waiting.clear();
  } else {
    all.waiting.push_back(&running());
  }
  wait_for(complete ? Waiting::nothing : Waiting::grid, "the grid's barrier", where);
}

void wait_until(std::function<bool()> condition, const char* what, Where where) {
  Thread& me = running();
  if (condition()) return;
  me.condition = std::move(condition);
  wait_for(Waiting::condition, what, where);
}

void maybe_yield(const char* what, Where where) {
  if (one_in(2)) wait_for(Waiting::nothing, what, where);
}

}  // namespace emulation
