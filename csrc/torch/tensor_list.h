// A Tensor[] argument without a torch::stable::Tensor for each element, which costs an allocation:
// for ops on lists of a thousand small tensors.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <utility>
#include <vector>

// Python's stable ABI (abi3), see module.cpp.
extern "C" {
int PyGILState_Ensure();
void PyGILState_Release(int state);
}

namespace gdext {

class TensorList {
 public:
  // Takes over the list and its elements.
  explicit TensorList(StableListHandle list) {
    size_t size = 0;
    STABLE_TORCH_ERROR_CODE_CHECK(torch_list_size(list, &size));
    handles_.resize(size);
    for (size_t i = 0; i < size; ++i) {
      StableIValue element = 0;
      STABLE_TORCH_ERROR_CODE_CHECK(torch_list_get_item(list, i, &element));
      handles_[i] = torch::stable::detail::to<AtenTensorHandle>(element);
    }
    STABLE_TORCH_ERROR_CODE_CHECK(torch_delete_list(list));
  }
  TensorList(TensorList&& other) noexcept : handles_(std::exchange(other.handles_, {})) {}
  TensorList& operator=(TensorList&&) = delete;
  ~TensorList() {
    if (handles_.empty()) return;
    // A tensor that nothing but Python still holds is given back to it, which takes the
    // interpreter's lock, once for each tensor; where it is held already that is nearly free.
    const int state = PyGILState_Ensure();
    for (AtenTensorHandle handle : handles_) aoti_torch_delete_tensor_object(handle);
    PyGILState_Release(state);
  }

  size_t size() const { return handles_.size(); }
  AtenTensorHandle operator[](size_t i) const { return handles_[i]; }
  torch::stable::Tensor tensor(size_t i) const {
    AtenTensorHandle copy = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_new_tensor_handle(handles_[i], &copy));
    return torch::stable::Tensor(copy);
  }

 private:
  std::vector<AtenTensorHandle> handles_;
};

}  // namespace gdext

// What TORCH_BOX makes a TensorList of.
template <>
struct torch::stable::detail::ToImpl<gdext::TensorList> {
  static gdext::TensorList call(StableIValue value, uint64_t, bool) {
    return gdext::TensorList(to<StableListHandle>(value));
  }
};
