// PyTorch's setting for products of float32 on CUDA, read when an op runs, as PyTorch's own products
// do: so it holds in the backward and in compiled code, too.
#include "torch/device.h"

// LibTorch's stable interface does not have it. These are at::globalContext() and the const member
// at::Context::allowTF32CuBLAS(), which takes its object as a first argument, by the names that the
// Itanium C++ ABI gives them; the references are weak, so that a PyTorch without them still loads,
// and then computes in full float32.
void* at_global_context() __asm__("_ZN2at13globalContextEv") __attribute__((weak));
bool at_allow_tf32(const void* context) __asm__("_ZNK2at7Context15allowTF32CuBLASEv")
    __attribute__((weak));

namespace gdext {

// Throws where the old and the new way to set it were mixed, as PyTorch's own products do.
bool allows_tf32() {
  return at_global_context && at_allow_tf32 && at_allow_tf32(at_global_context());
}

}  // namespace gdext
