// How wgmma finds a matrix in shared memory: plain C++, for the CPU too.
#pragma once
#include <cstdint>

#include "common/dtype.h"
#include "cuda/ptx/shared.cuh"

namespace gdext::cuda::ptx {

// Spreads the 16-byte pieces of a tile's lines over the banks; lines are 128, 64 or 32 bytes long,
// or 16, where there is nothing to spread. The numbers are the descriptor's.
enum class Swizzle : int { none = 0, bytes128 = 1, bytes64 = 2, bytes32 = 3 };

GDEXT_HD constexpr uint32_t line_bytes(Swizzle swizzle) {
  return swizzle == Swizzle::none ? 16u : 256u >> static_cast<int>(swizzle);
}

// Where the byte at `offset` of an unswizzled tile goes; the tile begins at a multiple of 8 lines.
// Address bits 4 and up change by bits 7 and up, as many as the mode has.
GDEXT_HD constexpr uint32_t swizzled(uint32_t offset, Swizzle swizzle) {
  return offset ^ (offset >> 3 & (line_bytes(swizzle) - 1) & 0x70u);
}

// A descriptor (PTX ISA, "Asynchronous Warpgroup Level Matrix Shared Memory Layout"). An operand is
// "k-major" where elements along k are adjacent, else "mn-major" (16-bit types only).
//
// Lines run along the adjacent dimension, and groups of 8 lines follow each other without gaps:
//   k-major, swizzled:    stride_bytes from 8 rows (or columns) to the next 8; leading is not used
//   mn-major, swizzled:   stride_bytes from 8 of k to the next 8; leading_bytes from line_bytes'
//   worth
//                         of rows to the next
//   k-major, no swizzle:  stride_bytes from 8 rows to the next 8; leading_bytes along k to the next
//                         16 bytes
//   mn-major, no swizzle: leading_bytes from 8 of k to the next 8; stride_bytes along the rows to
//                         the next 16 bytes
// Another start within a swizzled line, a multiple of 16 bytes on, walks along k.
__device__ inline uint64_t matrix_descriptor(const void* shared, Swizzle swizzle,
                                             uint32_t leading_bytes, uint32_t stride_bytes) {
  const auto encoded = [](uint32_t bytes) { return uint64_t{(bytes & 0x3ffffu) >> 4}; };
  return encoded(shared_address(shared)) | encoded(leading_bytes) << 16 |
         encoded(stride_bytes) << 32 | static_cast<uint64_t>(swizzle) << 62;
}

}  // namespace gdext::cuda::ptx
