// Tensor maps: how the hardware that copies boxes (ptx/tensor.cuh) finds them in a matrix.
#pragma once
#include <cuda.h>
#include <cuda_runtime.h>

#include <atomic>
#include <limits>
#include <type_traits>

#include "common/dtype.h"

namespace gdext::cuda {

using EncodeTensorMap = decltype(&cuTensorMapEncodeTiled);
inline std::atomic<EncodeTensorMap> encode_tensor_map{nullptr};

// The driver's function, asked for by name: the driver's library is not linked, so that this file
// loads where there is none. Null where it has none.
inline EncodeTensorMap find_encode_tensor_map() {
  EncodeTensorMap encode = encode_tensor_map.load(std::memory_order_relaxed);
  if (encode) return encode;
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  constexpr unsigned kSince = 12000;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, kSince,
                                       cudaEnableDefault, &result) != cudaSuccess)
    cudaGetLastError();
  else if (result == cudaDriverEntryPointSuccess)
    encode = reinterpret_cast<EncodeTensorMap>(function);
  encode_tensor_map.store(encode, std::memory_order_relaxed);
  return encode;
}

// Of a matrix of 16-bit elements, `near` of them adjacent and `far` times that, `far_stride`
// elements apart: boxes of `box` by `box`, 128 bytes wide, in the 128-byte swizzle. Some hundred
// nanoseconds of the host's time by what others have measured, and none in a CUDA graph. False
// where the hardware takes no such matrix: an empty one, or whose rows overlap or lie too far
// apart.
template <class T>
bool tensor_map(CUtensorMap& map, const void* data, int64_t near, int64_t far, int64_t far_stride,
                unsigned box) {
  static_assert(sizeof(T) == 2);
  constexpr int64_t kMostElements = std::numeric_limits<int>::max();  // coordinates are 32 bits
  constexpr int64_t kMostBytes = int64_t{1} << 40;
  const int64_t stride_bytes = far_stride * 2;
  if (near < 1 || far < 1 || near > kMostElements || far > kMostElements || far_stride < near ||
      stride_bytes >= kMostBytes)
    return false;
  const EncodeTensorMap encode = find_encode_tensor_map();
  if (!encode) return false;
  // The driver wants a current context, which a thread that has not launched anything may lack.
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || cudaSetDevice(device) != cudaSuccess) return false;
  const cuuint64_t extents[2] = {static_cast<cuuint64_t>(near), static_cast<cuuint64_t>(far)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(stride_bytes)};
  const cuuint32_t boxes[2] = {box, box}, steps[2] = {1, 1};
  return encode(&map,
                std::is_same_v<T, bfloat16> ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                            : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                2, const_cast<void*>(data), extents, strides, boxes, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace gdext::cuda
