// Barriers of a block, a warp, a cluster and a grid.
#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>
#include <vector>

#include "schedule.h"

namespace emulation {
namespace {

bool same(const char* a, const char* b) { return a == b || strcmp(a, b) == 0; }

void want_same_place(const char* what, Where where, const Thread& other, const char* group) {
  if (where.line() == other.where.line() && same(what, other.what) &&
      same(where.file_name(), other.where.file_name()))
    return;
  fail("is at " + std::string(what) + " while " + place_of(other) + ", of the same " + group +
           ", is at " + other.what + ", line " + std::to_string(other.where.line()),
       where);
}

const Thread& first_of(uint32_t lanes, const Thread& of_warp) {
  return *of_warp.block->threads[of_warp.index / warpSize * warpSize + std::countr_zero(lanes)];
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

void Exchange::offer(int lane, const void* from) {
  unsigned char* to = &offers[lane * bytes];
  if (bytes == 4)  // most are, or of 8; not a call for these
    memcpy(to, from, 4);
  else if (bytes == 8)
    memcpy(to, from, 8);
  else if (bytes)
    memcpy(to, from, bytes);
}

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
  if (wait && id == 0 && !barrier.waiting.empty())
    want_same_place(what, where, *barrier.waiting[0], "block");
  ++barrier.arrived;
  barrier.predicates += predicate;
  if (wait) {
    barrier.waiting.push_back(&me);
    me.set_ready(false);
  }
  if (barrier.arrived == barrier.expected) {
    barrier.arrived = 0;
    for (Thread* thread : barrier.waiting) {
      thread->barrier_result = barrier.predicates;
      thread->set_ready(true);
    }
    barrier.waiting.clear();
  }
  if (wait) me.pause(what, where);
  return me.barrier_result;
}

int lane() { return running().lane(); }

uint32_t lanes_of_warp() { return running().warp->lanes; }

ExchangeToRead meet(uint32_t mask, const void* offer, size_t bytes, const char* what, Where where) {
  Thread& me = running();
  Warp& warp = *me.warp;
  const uint32_t bit = me.lane_bit();
  if (!(mask & bit))
    fail(std::string(what) + ": lane " + std::to_string(me.lane()) + " is not in its own mask",
         where);
  mask &= warp.lanes;
  if (const uint32_t left = mask & warp.left)
    fail(std::string(what) + ": its mask names lane " + std::to_string(std::countr_zero(left)) +
             ", which has left the kernel",
         where);

  auto meeting = std::find_if(warp.meetings.begin(), warp.meetings.end(),
                              [=](const Meeting& m) { return m.mask == mask; });
  if (meeting == warp.meetings.end()) {
    meeting = warp.meetings.insert(meeting, {mask, 0, &take_exchange()});
    meeting->exchange->bytes = bytes;
  } else {
    want_same_place(what, where, first_of(meeting->arrived, me), "warp");
  }
  Exchange& exchange = *meeting->exchange;
  if (exchange.bytes != bytes)
    fail(std::string(what) + ": of " + std::to_string(bytes) + " bytes, while others hand over " +
             std::to_string(exchange.bytes),
         where);
  exchange.offer(me.lane(), offer);
  meeting->arrived |= bit;
  if (meeting->arrived == mask) {
    exchange.lanes = mask;
    exchange.readers = std::popcount(mask);
    warp.meetings.erase(meeting);
    warp.meeting &= ~mask;
    warp.ready |= mask;
  } else {
    // All have come, some of them to another meeting.
    if ((mask & ~warp.meeting) == bit) {
      const Thread& other = first_of(mask & ~meeting->arrived, me);
      want_same_place(what, where, other, "warp");
      fail(std::string(what) + ": its mask names lane " + std::to_string(other.lane()) +
               ", which has another mask",
           where);
    }
    warp.meeting |= bit;
    me.set_ready(false);
  }
  me.pause(what, where);
  return ExchangeToRead(&exchange);
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
    for (Warp& warp : block->warps) warp.ready |= std::exchange(warp.at_cluster, 0);
}

void cluster_wait(Where where) {
  Thread& me = running();
  if (!me.cluster_arrived) fail("waits at the cluster's barrier without having arrived", where);
  if (me.block->cluster->phase == me.cluster_phase) {
    me.set_ready(false);
    me.warp->at_cluster |= me.lane_bit();
  }
  me.pause("the cluster's barrier", where);
  me.cluster_arrived = false;
}

void grid_barrier(Where where) {
  Grid& all = grid();
  if (!all.cooperative) fail("grid barrier in a launch that is not cooperative", where);
  Thread& me = running();
  me.set_ready(false);
  all.waiting.push_back(&me);
  if (static_cast<int>(all.waiting.size()) == all.threads) {
    for (Thread* thread : all.waiting) thread->set_ready(true);
    all.waiting.clear();
  }
  me.pause("the grid's barrier", where);
}

void wait_until(std::function<bool()> condition, const char* what, Where where) {
  Thread& me = running();
  if (condition()) return;
  me.condition = std::move(condition);
  me.set_ready(false);
  me.warp->polling |= me.lane_bit();
  me.pause(what, where);
}

void maybe_yield(const char* what, Where where) {
  if (one_in(2)) running().pause(what, where);
}

}  // namespace emulation
