// What every op's contract shares. Kernels see raw pointers, sizes and strides; the checks (shapes,
// dtypes, devices) happen above them, once, in csrc/torch.
//
// Two backends implement each contract: gdext::cpu (csrc/cpu) and gdext::cuda (csrc/cuda).
// Both report failure by throwing std::exception; on failure nothing that they were given to write
// may be relied on.
#pragma once
#include <cstdint>

#include "common/activation.h"
#include "common/dtype.h"

namespace gdext {

// Where and how a kernel runs on CUDA; the CPU backend ignores it.
struct Context {
  // A cudaStream_t to launch on; the caller has made its device current.
  void* stream = nullptr;
  // Products of float32 may round their operands to tf32: what PyTorch's own products do where
  // torch.backends.cuda.matmul.allow_tf32 (or fp32_precision, or
  // torch.set_float32_matmul_precision) permits it.
  bool tf32 = false;
};

// A matrix that is read: element (r, c) is at data[r * row_stride + c * col_stride]. Strides count
// elements and may be 0 (expanded tensors) or in any order (transposed ones).
struct Matrix {
  const void* data = nullptr;
  int64_t row_stride = 0;
  int64_t col_stride = 0;
};
inline Matrix transposed(const Matrix& m) { return {m.data, m.col_stride, m.row_stride}; }

// The numbers are torch.nn._reduction's.
enum class Reduction : int { none = 0, mean = 1, sum = 2 };

// Reductions over a whole tensor first make at most this many partial sums, each over a fixed range
// of elements, in float64, then add those in order: same input, same bits, whatever the number of
// threads. Callers hand over room for kWorkspace doubles.
constexpr int64_t kPartials = 1024;
constexpr int64_t kWorkspace = 2 * kPartials;

}  // namespace gdext
