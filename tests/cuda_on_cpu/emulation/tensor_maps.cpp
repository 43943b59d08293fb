#include "tensor_maps.h"

#include <cuda_runtime.h>

#include <cstring>

#include "copies.h"
#include "schedule.h"

namespace {

constexpr uint64_t kMark = 0x70616d20736e6574;  // tells a map from what no one has encoded
constexpr int kSize = 2;                        // bytes of an element

struct Map {
  uint64_t mark = kMark;
  const unsigned char* data;
  int64_t extents[2], stride;
  int box[2];
  bool swizzled;
};
static_assert(sizeof(Map) <= sizeof(CUtensorMap));

}  // namespace

// Refuses what the driver's documentation does.
CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType, cuuint32_t rank, void* data,
                                const cuuint64_t* extents, const cuuint64_t* strides,
                                const cuuint32_t* box, const cuuint32_t* steps,
                                CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  constexpr uint64_t kMostElements = uint64_t{1} << 32, kMostBytes = uint64_t{1} << 40;
  bool right = rank == 2 && reinterpret_cast<uintptr_t>(map) % 64 == 0 &&
               reinterpret_cast<uintptr_t>(data) % 16 == 0 && strides[0] % 16 == 0 &&
               strides[0] < kMostBytes && strides[0] >= extents[0] * kSize &&
               box[0] * kSize % 16 == 0;
  for (int i = 0; i < 2; ++i)
    right &= extents[i] > 0 && extents[i] <= kMostElements && box[i] > 0 && box[i] <= 256 &&
             steps[i] == 1;
  const bool swizzled = swizzle == CU_TENSOR_MAP_SWIZZLE_128B;
  if (!right || (swizzled && box[0] * kSize > 128)) return CUDA_ERROR_INVALID_VALUE;
  const Map made{kMark,
                 static_cast<const unsigned char*>(data),
                 {static_cast<int64_t>(extents[0]), static_cast<int64_t>(extents[1])},
                 static_cast<int64_t>(strides[0]),
                 {static_cast<int>(box[0]), static_cast<int>(box[1])},
                 swizzled};
  memcpy(static_cast<void*>(map), &made, sizeof(made));
  return CUDA_SUCCESS;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  const bool found = !strcmp(symbol, "cuTensorMapEncodeTiled");
  *function = found ? reinterpret_cast<void*>(cuTensorMapEncodeTiled) : nullptr;
  *result = found ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

namespace emulation {

void tensor_load(void* shared, const CUtensorMap& encoded, int near, int far, uint64_t* barrier,
                 Where where) {
  Map map;
  memcpy(static_cast<void*>(&map), &encoded, sizeof(map));
  if (map.mark != kMark) fail("cp.async.bulk.tensor: no tensor map has been encoded there", where);
  const int line = map.box[0] * kSize, bytes = line * map.box[1];
  if (map.swizzled && (line != 128 || shared_address(shared, where) % 1024))
    fail("cp.async.bulk.tensor: a swizzle that begins elsewhere is not emulated", where);
  check_shared(shared, bytes, 128, "cp.async.bulk.tensor to", where);
  auto* to = static_cast<unsigned char*>(shared);
  bulk_copy(shared, bytes, barrier, where, [=] {
    for (int row = 0; row < map.box[1]; ++row)
      for (int col = 0; col < map.box[0]; ++col) {
        int at = row * line + col * kSize;
        if (map.swizzled) at ^= at >> 3 & 0x70;
        const int64_t x = int64_t{near} + col, y = int64_t{far} + row;
        const bool inside = x >= 0 && x < map.extents[0] && y >= 0 && y < map.extents[1];
        if (inside)
          memcpy(to + at, map.data + y * map.stride + x * kSize, kSize);
        else
          memset(to + at, 0, kSize);
      }
  });
}

}  // namespace emulation
