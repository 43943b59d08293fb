// From checked arguments to a backend: the CPU's, or the CUDA one on the tensor's device and
// PyTorch's current stream of that device. (tests/cuda_on_cpu has a stand-in for this file.)
#pragma once
#include <torch/csrc/stable/accelerator.h>

#include "torch/checks.h"

#if GDEXT_CUDA
// LibTorch's CUDA part has this. The reference is weak so that this library loads without that part
// too; it is found through libtorch.so, which needs that part where PyTorch has it.
extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);
#endif

namespace gdext {

// Whether CUDA kernels are compiled in and the PyTorch that is running has its CUDA part.
inline bool torch_has_cuda() {
#if GDEXT_CUDA
  return aoti_torch_get_current_cuda_stream != nullptr;
#else
  return false;
#endif
}

// Whether it is the CUDA kernels that compute on a tensor.
inline bool runs_on_cuda(const Tensor& t) { return t.is_cuda(); }

// Whether PyTorch's settings let products of float32 on CUDA round their operands to tf32
// (tf32.cpp).
bool allows_tf32();

#if GDEXT_CUDA
// f(context) on the device of the tensor `like`, and on PyTorch's current stream of it.
template <class F>
auto with_cuda(const Tensor& like, const F& f) {
  GDEXT_CHECK(torch_has_cuda(), "gdext: this PyTorch is a CPU-only build, yet a tensor is on ",
              show_device(like));
  const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
  Context context;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_get_current_cuda_stream(like.get_device_index(), &context.stream));
  context.tf32 = allows_tf32();
  return f(context);
}
#endif

template <class Args>
using Kernel = void (*)(const Args&, Context);

template <class Args>
void run(const Tensor& like, const Args& args, Kernel<Args> on_cpu,
         [[maybe_unused]] Kernel<Args> on_cuda) {
  if (!runs_on_cuda(like)) {
    on_cpu(args, {});
    return;
  }
#if GDEXT_CUDA
  with_cuda(like, [&](Context context) { on_cuda(args, context); });
#endif
}

// Throws where the tensor `like` is on a device that nothing here was built for.
inline void check_built_for([[maybe_unused]] const Tensor& like) {
#if !GDEXT_CUDA
  GDEXT_CHECK(like.is_cpu(),
              "gdext was built without CUDA: build it again with GDEXT_CUDA=1 to compute on ",
              show_device(like));
#endif
}

// GDEXT_RUN: `cpu::op` or `cuda::op` on args, on the device of the tensor `like`.
// GDEXT_RUN_ON_CUDA: of what `cuda` alone has, for tensors that are there.
#if GDEXT_CUDA
#define GDEXT_RUN(like, op, args) ::gdext::run(like, args, &::gdext::cpu::op, &::gdext::cuda::op)
#define GDEXT_RUN_ON_CUDA(like, op, args) ::gdext::run(like, args, {}, &::gdext::cuda::op)
#else
#define GDEXT_RUN_ON_CUDA(like, op, args) ::gdext::check_built_for(like)
#define GDEXT_RUN(like, op, args)                    \
  do {                                               \
    ::gdext::check_built_for(like);                  \
    ::gdext::run(like, args, &::gdext::cpu::op, {}); \
  } while (false)
#endif

}  // namespace gdext
