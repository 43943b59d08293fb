// PyTorch's setting for products of float32 on CUDA, read when an op runs, as PyTorch's own
// products do: so it holds in the backward and in compiled code, too.
#include "torch/device.h"

// LibTorch's stable interface does not have it. These are at::globalContext() and the const member
// at::Context::float32Precision(Float32Backend, Float32Op), which takes its object as a first
// argument, by the names that the Itanium C++ ABI gives them; the references are weak, so that a
// PyTorch without them still loads, and then computes in full float32. (allowTF32CuBLAS() throws
// where fp32_precision was set; this one does not.)
void* at_global_context() __asm__("_ZN2at13globalContextEv") __attribute__((weak));
int at_float32_precision(const void* context, int backend, int op) __asm__(
    "_ZNK2at7Context16float32PrecisionENS_14Float32BackendENS_9Float32OpE") __attribute__((weak));

namespace gdext {

bool allows_tf32() {
  // Of the enumerations in ATen/Context.h; tests/test_tf32.py would see them change.
  constexpr int kBackendCuda = 1, kOpMatmul = 3, kTf32 = 2;
  return at_global_context && at_float32_precision &&
         at_float32_precision(at_global_context(), kBackendCuda, kOpMatmul) == kTf32;
}

}  // namespace gdext
