// Host memory that the device copies from while the host goes on.
#pragma once
#include <memory>

#include "cuda/common.cuh"

namespace gdext::cuda {

struct Pinned;

// At least `bytes` bytes of it, for streams of the current device; it goes back when nobody holds
// it. Waits for the oldest copy where many of that size (rounded up to a power of two) wait, or no
// other memory is left; throws std::runtime_error where there is none at all.
std::shared_ptr<Pinned> take_pinned(size_t bytes);

void* address_of(const Pinned&);

// Copies its first bytes to the device, in the order of the stream. Once this is called nobody may
// write there again: it is taken anew only after the copy, and, where the stream is being captured,
// after all graphs that hold the copy are gone and have run.
void copy_to_device(const std::shared_ptr<Pinned>& from, void* to, size_t bytes, Context);

}  // namespace gdext::cuda
