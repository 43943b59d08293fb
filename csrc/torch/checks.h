// Checks of tensors and messages about them, for every op and both devices.
//
// A message names the argument, what was wanted and what was given. GDEXT_CHECK throws what Python
// sees as a RuntimeError, GDEXT_CHECK_VALUE a ValueError. Nothing is left for the ATen calls below
// to complain about: an error that crosses LibTorch's C interface comes with a C++ backtrace on
// stderr.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "contract/common.h"

namespace gdext {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

template <class... Parts>
std::string message(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

#define GDEXT_CHECK(condition, ...) \
  if (!(condition)) throw std::runtime_error(::gdext::message(__VA_ARGS__))
#define GDEXT_CHECK_VALUE(condition, ...) \
  if (!(condition)) throw std::invalid_argument(::gdext::message(__VA_ARGS__))

std::string at(const char* list, size_t i);  // "grads[3]"
std::string show(Sizes sizes);               // "[2, 3]"
std::string show_device(const Tensor& t);    // "cuda:0"
const char* show_dtype(ScalarType dtype);    // "float32"

// A dense tensor of a dtype that gdext has kernels for; its DType.
DType check_floating(const Tensor& t, const char* name);
// `t` has the device of `like`.
void check_device(const Tensor& t, const char* name, const Tensor& like, const char* like_name);
// `t` is dense and has the dtype and device of `like`.
void check_like(const Tensor& t, const char* name, const Tensor& like, const char* like_name);
void check_shape(const Tensor& t, const char* name, Sizes wanted, const char* why);

// A list has as many elements as wanted.
void check_length(const char* name, size_t got, size_t wanted, const char* why);

// The numbers of Python's side as the enumerations, or an error.
Activation check_activation(int64_t activation);
Reduction check_reduction(int64_t reduction);

// An uninitialised contiguous tensor on the device of `like`.
Tensor empty(Sizes sizes, ScalarType dtype, const Tensor& like);
inline Tensor empty(Sizes sizes, const Tensor& like) {
  return empty(sizes, like.scalar_type(), like);
}
// What stands in for an output that was not wanted.
inline Tensor nothing(const Tensor& like) { return empty({0}, like); }
// float64 for float64, else float32: what acc_t<T> is.
ScalarType accumulation_dtype(const Tensor& t);
// Room for the sums of a reduction (contract/common.h). For the CPU, whose kernels have returned
// before it goes, on the stack: an allocation takes as long as a small reduction.
class Workspace {
 public:
  explicit Workspace(const Tensor& like) {
    if (!like.is_cpu()) elsewhere_ = empty({kWorkspace}, ScalarType::Double, like);
  }
  double* data() {
    return elsewhere_ ? static_cast<double*>(elsewhere_->mutable_data_ptr()) : here_;
  }

 private:
  std::optional<Tensor> elsewhere_;
  double here_[kWorkspace];
};

// `t` itself if it is contiguous, else a copy that is.
Tensor as_contiguous(const Tensor& t);
inline const void* data(const Tensor& t) { return t.const_data_ptr(); }
inline const void* data(const std::optional<Tensor>& t) {
  return t ? t->const_data_ptr() : nullptr;
}

// t of shape [*, columns] as a matrix [rows, columns]: a view of its memory where the leading
// dimensions fold into one stride, else of a contiguous copy, which then replaces `t` to stay
// alive.
Matrix as_matrix(Tensor& t);
// The product of the leading dimensions.
int64_t leading(const Tensor& t);

}  // namespace gdext
