// The list of tensors on its way to sgd's kernel (sgd.cu): which chunk of which tensor a block
// updates.
//
// A table goes to the kernel in the launch's parameters: no copy, no allocation, nothing to wait
// for, and a captured graph holds its own. Two sizes: 4 KB, enough for an MLP, since a launch
// copies all of its parameters several times on the host; and what sm_70 and newer take, 32,764
// bytes.
//
// Lists longer than that are laid into the caller's workspace, piece by piece, by kernels that
// carry the pieces in their parameters, so that the update is one launch however long the list. A
// copy from the host would not do: a captured one reads the host's memory anew at each replay.
// Keeping the table from step to step would save one launch for each kLargeTable tensors (some
// microseconds, where Python takes half a millisecond over that many), and then needs to know
// whether the stream is capturing, on which stream the table was last read, and that no gradient
// has moved.
#pragma once
#include "contract/sgd.h"
#include "cuda/common.cuh"

namespace gdext::cuda {

struct SgdEntry {
  void* p;
  void* g;
  void* m;
  uint64_t n : 63;  // > 0: empty tensors are left out
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

// Every kSgdStride-th tensor's first block is written down; between them, chunks are counted.
template <int kCapacity>
struct SgdTable {
  static_assert(kCapacity % kSgdStride == 0);
  SgdEntry entries[kCapacity];
  uint32_t first_block[kCapacity / kSgdStride];
  int count;
};

// The same in the caller's workspace.
struct SgdTableInMemory {
  SgdEntry* entries;      // [count]
  uint32_t* first_block;  // [ceil(count / kSgdStride)]
  int count;

  SgdTableInMemory(void* workspace, int64_t count)
      : entries(static_cast<SgdEntry*>(workspace)),
        first_block(reinterpret_cast<uint32_t*>(entries + count)),
        count(static_cast<int>(count)) {}
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

// Takes the tensors of a list in order, a table's worth at a time.
template <class T>
class SgdFiller {
 public:
  explicit SgdFiller(const SgdArgs& args) : next_(args.tensors), end_(args.tensors + args.count) {
    for (const SgdTensor* t = next_; t != end_; ++t) count_ += t->n != 0;
  }
  int64_t count() const { return count_; }    // of all tensors that are not empty
  int64_t blocks() const { return blocks_; }  // for those taken so far

  template <int kCapacity>
  void fill(SgdTable<kCapacity>& table) {
    for (table.count = 0; next_ != end_ && table.count < kCapacity; ++next_) {
      if (next_->n == 0) continue;
      if (table.count % kSgdStride == 0)
        table.first_block[table.count / kSgdStride] = static_cast<uint32_t>(blocks_);
      SgdEntry& entry = table.entries[table.count++];
      entry = {next_->p, next_->g, next_->m, static_cast<uint64_t>(next_->n), next_->first};
      blocks_ += SgdChunks<T>::count(entry);
    }
  }

 private:
  const SgdTensor* next_;
  const SgdTensor* end_;
  int64_t count_ = 0, blocks_ = 0;
};

}  // namespace gdext::cuda
