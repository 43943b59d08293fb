// The list of tensors on its way to sgd's kernel (sgd.cu): which chunk of which tensor a block
// updates.
//
// A table goes to the kernel in the launch's parameters: no copy, no allocation, nothing to wait
// for, and a captured graph holds its own. Two sizes: 4 KB, enough for an MLP, since a launch
// copies all of its parameters several times on the host; and what sm_70 and newer take, 32,764
// bytes.
//
// Longer ones are copied to the caller's workspace, so that the update is one launch however long
// the list. A captured copy reads the host's memory anew at each replay: the graph holds it
// (pinned.cuh).
#pragma once
#include "contract/sgd.h"
#include "cuda/common.cuh"

namespace gdext::cuda {

struct SgdEntry {
  void* p;
  void* g;
  void* m;
  uint64_t n : 63;  // > 0
  uint64_t first : 1;
};
static_assert(sizeof(SgdEntry) == kSgdEntryBytes);

// How a tensor of T is cut into chunks, one for a block: into vectors of 16 bytes, of which each
// thread takes kVectors.
template <class T>
struct SgdChunks {
  static constexpr int kVectorBytes = 16, kWidth = kVectorBytes / sizeof(T), kVectors = 2;
  static constexpr int64_t kChunk = int64_t{kThreads} * kVectors * kWidth;  // elements

  // Whether p, g and m lie alike between 16-byte boundaries, so that vectors can be cut from all.
  GDEXT_HD static bool in_step(const SgdEntry& t) {
    const uint64_t p = address(t.p);
    return (((p ^ address(t.g)) | (t.m ? p ^ address(t.m) : 0)) % kVectorBytes) == 0;
  }
  // Elements between a 16-byte boundary and the tensor's begin: chunks are counted from there, so
  // that each begins on one.
  GDEXT_HD static int lead(const SgdEntry& t) {
    return in_step(t) ? static_cast<int>(address(t.p) % kVectorBytes / sizeof(T)) : 0;
  }
  GDEXT_HD static int64_t count(const SgdEntry& t) {
    return ceil_div(static_cast<int64_t>(t.n) + lead(t), kChunk);
  }

 private:
  GDEXT_HD static uint64_t address(const void* at) { return reinterpret_cast<uintptr_t>(at); }
};

// Empty tensors are left out. Every kSgdStride-th tensor's first block is written down; between
// them, chunks are counted.
template <int kCapacity>
struct SgdTable {
  static_assert(kCapacity % kSgdStride == 0);
  SgdEntry entries[kCapacity];
  uint32_t first_block[kCapacity / kSgdStride];
  int count;
};

// The same in memory of sgd_workspace_bytes(capacity), the host's or the device's.
struct SgdTableInMemory {
  SgdEntry* entries;      // [capacity]
  uint32_t* first_block;  // [ceil(capacity / kSgdStride)]
  int count;

  SgdTableInMemory(void* memory, int64_t capacity, int count = 0)
      : entries(static_cast<SgdEntry*>(memory)),
        first_block(reinterpret_cast<uint32_t*>(entries + capacity)),
        count(count) {}
};

// What a block works on.
struct SgdPlace {
  SgdEntry tensor;
  int64_t chunk;
};

template <class T, class Table>
__device__ SgdPlace find_chunk(const Table& table, uint32_t block) {
  int low = 0, high = static_cast<int>(ceil_div(table.count, kSgdStride));
  while (high - low > 1) {
    const int middle = low + (high - low) / 2;
    if (table.first_block[middle] <= block)
      low = middle;
    else
      high = middle;
  }
  int64_t chunk = block - table.first_block[low];
  for (const SgdEntry* entry = table.entries + low * kSgdStride;; ++entry) {
    const int64_t chunks = SgdChunks<T>::count(*entry);
    if (chunk < chunks) return {*entry, chunk};
    chunk -= chunks;
  }
}

// Writes a list into a table that has room for it; returns how many blocks update it.
template <class T, class Table>
int64_t fill(Table& table, const SgdArgs& args) {
  int64_t blocks = 0;
  table.count = 0;
  for (const SgdTensor* t = args.tensors; t != args.tensors + args.count; ++t) {
    if (t->n == 0) continue;
    if (table.count % kSgdStride == 0)
      table.first_block[table.count / kSgdStride] = static_cast<uint32_t>(blocks);
    SgdEntry& entry = table.entries[table.count++];
    entry = {t->p, t->g, t->m, static_cast<uint64_t>(t->n), t->first};
    blocks += SgdChunks<T>::count(entry);
  }
  return blocks;
}

}  // namespace gdext::cuda
