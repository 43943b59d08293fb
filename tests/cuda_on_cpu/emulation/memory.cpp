// Addresses: whose shared memory they are in, and whether they are aligned.
#include "schedule.h"

namespace emulation {
namespace {

constexpr uint32_t kReserved = 1024;  // of a block's shared addresses, before dynamic memory

bool in_dynamic_shared(const SharedMemory& shared, const void* address, size_t bytes) {
  const auto* at = static_cast<const unsigned char*>(address);
  return at >= shared.dynamic() && at + bytes <= shared.dynamic() + shared.dynamic_bytes();
}

void check_alignment(const void* address, size_t alignment, const char* what, Where where) {
  if (reinterpret_cast<uintptr_t>(address) % alignment != 0)
    fail(std::string(what) + ": an address that is not a multiple of " + std::to_string(alignment),
         where);
}

}  // namespace

void check_shared(const void* address, size_t bytes, size_t alignment, const char* what,
                  Where where) {
  if (!in_dynamic_shared(running().block->shared, address, bytes) &&
      !in_static_shared(address, bytes))
    fail(std::string(what) + ": an address outside the block's shared memory", where);
  check_alignment(address, alignment, what, where);
}

void check_global(const void* address, size_t bytes, size_t alignment, const char* what,
                  Where where) {
  if (in_dynamic_shared(running().block->shared, address, bytes) ||
      in_static_shared(address, bytes))
    fail(std::string(what) + ": an address in shared memory where one in global memory is wanted",
         where);
  check_alignment(address, alignment, what, where);
}

unsigned char* dynamic_shared(Where where) {
  const SharedMemory& shared = running().block->shared;
  if (shared.dynamic_bytes() == 0) fail("was launched without dynamic shared memory", where);
  return shared.dynamic();
}

uint32_t shared_address(const void* address, Where where) {
  const SharedMemory& shared = running().block->shared;
  if (!in_dynamic_shared(shared, address, 1))
    fail("a descriptor of an address that is not in dynamic shared memory", where);
  return kReserved + (static_cast<const unsigned char*>(address) - shared.dynamic());
}

const unsigned char* at_shared_address(uint32_t address, size_t bytes, Where where) {
  const SharedMemory& shared = running().block->shared;
  if (address < kReserved || address - kReserved + bytes > shared.dynamic_bytes())
    fail("a descriptor leads to shared address " + std::to_string(address) +
             ", outside dynamic shared memory",
         where);
  return shared.dynamic() + (address - kReserved);
}

unsigned cluster_rank() { return running().block->rank; }
dim3 cluster_size() { return grid().cluster_size; }

void* map_shared_rank(const void* address, unsigned rank, Where where) {
  Block& mine = *running().block;
  const Cluster& cluster = *mine.cluster;
  if (rank >= cluster.blocks.size())
    fail("rank " + std::to_string(rank) + " of a cluster of " +
             std::to_string(cluster.blocks.size()) + " blocks",
         where);
  Block& other = *cluster.blocks[rank];
  if (&other == &mine) return const_cast<void*>(address);
  void* result = other.shared.counterpart(address, mine.shared);
  if (!result) fail("maps an address that is not in shared memory", where);
  return result;
}

}  // namespace emulation
