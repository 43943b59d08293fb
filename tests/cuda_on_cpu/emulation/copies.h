// cp.async, cp.async.bulk and mbarriers. What is on its way into shared memory is poison until it
// lands, and lands no later than when it is waited for.
#pragma once
#include <functional>

#include "emulation.h"

namespace emulation {

void async_copy(void* shared, const void* global, size_t bytes, size_t bytes_read, Where where);
void commit_copies();
void wait_for_copies(size_t groups_left);
void wait_for_all_copies();

void mbarrier_init(uint64_t* barrier, unsigned count, Where where);
void mbarrier_arrive(uint64_t* barrier, unsigned bytes_to_come, Where where);
bool mbarrier_test(const uint64_t* barrier, unsigned parity, Where where);
void mbarrier_wait(const uint64_t* barrier, unsigned parity, Where where);

// Of `bytes` to shared memory, which `copy` does when the time has come.
void bulk_copy(void* shared, size_t bytes, uint64_t* barrier, Where where,
               std::function<void()> copy);
void bulk_load(void* shared, const void* global, unsigned bytes, uint64_t* barrier, Where where);
void bulk_store(void* global, const void* shared, unsigned bytes, Where where);
void commit_bulk_stores();
void wait_for_bulk_stores(size_t groups_left);

}  // namespace emulation
