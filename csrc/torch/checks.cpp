#include "torch/checks.h"

#include <torch/csrc/stable/device.h>

namespace gdext {

std::string at(const char* list, size_t i) {
  return std::string(list) + '[' + std::to_string(i) + ']';
}

std::string show(Sizes sizes) {
  std::ostringstream text;
  text << '[';
  for (size_t i = 0; i < sizes.size(); ++i) text << (i ? ", " : "") << sizes[i];
  text << ']';
  return text.str();
}

std::string show_device(const Tensor& t) {
  if (t.is_cpu()) return "cpu";
  if (t.is_cuda()) return "cuda:" + std::to_string(t.get_device_index());
  return "another device";
}

const char* show_dtype(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Half:
      return "float16";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Bool:
      return "bool";
    case ScalarType::ComplexFloat:
      return "complex64";
    case ScalarType::ComplexDouble:
      return "complex128";
    default:
      return torch::headeronly::toString(dtype);
  }
}

namespace {
void check_dense(const Tensor& t, const char* name) {
  int32_t layout = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_layout(t.get(), &layout));
  GDEXT_CHECK(layout == aoti_torch_layout_strided(), name,
              ": wanted a dense tensor (layout torch.strided), got a sparse one");
}
}  // namespace

DType check_floating(const Tensor& t, const char* name) {
  check_dense(t, name);
  GDEXT_CHECK(t.is_cpu() || t.is_cuda(), name, ": wanted a tensor on cpu or cuda, got ",
              show_device(t));
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return DType::f32;
    case ScalarType::Double:
      return DType::f64;
    case ScalarType::BFloat16:
      return DType::bf16;
    case ScalarType::Half:
      return DType::f16;
    default:
      throw std::runtime_error(message(name,
                                       ": wanted dtype float32, float64, bfloat16 or float16, got ",
                                       show_dtype(t.scalar_type())));
  }
}

void check_device(const Tensor& t, const char* name, const Tensor& like, const char* like_name) {
  GDEXT_CHECK(t.is_cpu() == like.is_cpu() && t.get_device_index() == like.get_device_index(), name,
              ": wanted device ", show_device(like), " (that of ", like_name, "), got ",
              show_device(t));
}

void check_like(const Tensor& t, const char* name, const Tensor& like, const char* like_name) {
  check_dense(t, name);
  GDEXT_CHECK(t.scalar_type() == like.scalar_type(), name, ": wanted dtype ",
              show_dtype(like.scalar_type()), " (that of ", like_name, "), got ",
              show_dtype(t.scalar_type()));
  check_device(t, name, like, like_name);
}

void check_shape(const Tensor& t, const char* name, Sizes wanted, const char* why) {
  const Sizes got = t.sizes();
  bool same = got.size() == wanted.size();
  for (size_t i = 0; same && i < wanted.size(); ++i) same = got[i] == wanted[i];
  GDEXT_CHECK(same, name, ": wanted shape ", show(wanted), " (", why, "), got ", show(got));
}

void check_length(const char* name, size_t got, size_t wanted, const char* why) {
  GDEXT_CHECK_VALUE(got == wanted, name, ": wanted ", wanted, " elements (", why, "), got ", got);
}

Activation check_activation(int64_t activation) {
  GDEXT_CHECK_VALUE(activation >= 0 && activation < kActivations,
                    "activation: wanted a number from 0 to ", kActivations - 1, ", got ",
                    activation);
  return static_cast<Activation>(activation);
}

Reduction check_reduction(int64_t reduction) {
  GDEXT_CHECK_VALUE(reduction >= 0 && reduction <= 2,
                    "reduction: wanted 0 (none), 1 (mean) or 2 (sum), got ", reduction);
  return static_cast<Reduction>(reduction);
}

Tensor empty(Sizes sizes, ScalarType dtype, const Tensor& like) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t i = sizes.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= std::max<int64_t>(sizes[i], 1);
  }
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)),
      like.is_cuda() ? aoti_torch_device_type_cuda() : aoti_torch_device_type_cpu(),
      like.get_device_index(), &handle));
  return Tensor(handle);
}

ScalarType accumulation_dtype(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

Tensor as_contiguous(const Tensor& t) {
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}

int64_t leading(const Tensor& t) {
  const Sizes sizes = t.sizes();
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < sizes.size(); ++i) rows *= sizes[i];
  return rows;
}

Matrix as_matrix(Tensor& t) {
  const Sizes sizes = t.sizes(), strides = t.strides();
  const size_t last = sizes.size() - 1;
  // From the last leading dimension outwards: each must continue where the ones inside it end.
  int64_t row_stride = 0, rows = 1;
  bool folds = true;
  for (size_t i = last; i-- > 0;) {
    if (sizes[i] == 1) continue;
    if (rows == 1) {
      row_stride = strides[i];
    } else {
      folds = folds && strides[i] == row_stride * rows;
    }
    rows *= sizes[i];
  }
  if (folds) return {t.const_data_ptr(), row_stride, strides[last]};
  t = torch::stable::contiguous(t);
  return {t.const_data_ptr(), t.sizes()[last], 1};
}

}  // namespace gdext
