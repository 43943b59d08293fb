// A tensor's metadata, asked for once, and questions about its layout, for ops on lists of tensors.
#pragma once
#include <algorithm>

#include "torch/checks.h"

namespace gdext {

// All that the checks and the kernel ask of a tensor.
struct Meta {
  AtenTensorHandle handle;
  int32_t layout = 0, dtype = 0, device_type = 0, device_index = 0;
  Sizes sizes, strides;
  int64_t numel = 1;
  bool contiguous = false;

  explicit Meta(AtenTensorHandle of) : handle(of) {
    int64_t dim = 0, *first_size = nullptr, *first_stride = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_layout(handle, &layout));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(handle, &dtype));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(handle, &device_type));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(handle, &device_index));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dim(handle, &dim));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(handle, &first_size));
    sizes = Sizes(first_size, static_cast<size_t>(dim));
    if (layout != aoti_torch_layout_strided()) return;  // an error, soon to be found
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(handle, &first_stride));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_is_contiguous(handle, &contiguous));
    strides = Sizes(first_stride, static_cast<size_t>(dim));
    for (const int64_t size : sizes) numel *= size;
  }

  // Can one kernel call work on both?
  bool is_kind_of(const Meta& other) const {
    return layout == other.layout && dtype == other.dtype && device_type == other.device_type &&
           device_index == other.device_index;
  }
  bool has_shape_of(const Meta& other) const {
    return std::equal(sizes.begin(), sizes.end(), other.sizes.begin(), other.sizes.end());
  }
  const void* read() const {
    const void* data = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(torch_get_const_data_ptr(handle, &data));
    return data;
  }
  void* written() const {
    void* data = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(torch_get_mutable_data_ptr(handle, &data));
    return data;
  }
};

// Whether the elements fill [data, data + numel), in any order.
inline bool is_dense(const Meta& t) {
  if (t.contiguous) return true;
  std::vector<size_t> dims;
  for (size_t d = 0; d < t.sizes.size(); ++d) {
    if (t.sizes[d] != 1) dims.push_back(d);
  }
  std::sort(dims.begin(), dims.end(),
            [&](size_t a, size_t b) { return t.strides[a] < t.strides[b]; });
  int64_t expected = 1;
  for (const size_t d : dims) {
    if (t.strides[d] != expected) return false;
    expected *= t.sizes[d];
  }
  return true;
}

// Whether a and b, of one shape, have their elements in the same places.
inline bool same_places(const Meta& a, const Meta& b) {
  if (a.contiguous && b.contiguous) return true;
  for (size_t d = 0; d < a.sizes.size(); ++d) {
    if (a.sizes[d] > 1 && a.strides[d] != b.strides[d]) return false;
  }
  return true;
}

}  // namespace gdext
