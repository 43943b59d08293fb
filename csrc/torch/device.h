// From checked arguments to a backend: the CPU's, or the CUDA one on the tensor's device and
// PyTorch's current stream of that device.
#pragma once
#include <torch/csrc/stable/accelerator.h>

#include "torch/checks.h"

#if GDEXT_CUDA
// LibTorch's CUDA part has this; the reference is weak so that this library loads without that part
// too.
extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);
#endif

namespace gdext {

template <class Args>
using Kernel = void (*)(const Args&, Context);

template <class Args>
void run(const Tensor& like, const Args& args, Kernel<Args> on_cpu,
         [[maybe_unused]] Kernel<Args> on_cuda) {
  if (like.is_cpu()) {
    on_cpu(args, {});
    return;
  }
#if GDEXT_CUDA
  const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
  Context context;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_get_current_cuda_stream(like.get_device_index(), &context.stream));
  on_cuda(args, context);
#endif
}

// `cpu::op` or `cuda::op` on args, on the device of the tensor `like`.
#if GDEXT_CUDA
#define GDEXT_RUN(like, op, args) ::gdext::run(like, args, &::gdext::cpu::op, &::gdext::cuda::op)
#else
#define GDEXT_RUN(like, op, args)                                                    \
  do {                                                                               \
    GDEXT_CHECK((like).is_cpu(),                                                     \
                "gdext was built without CUDA: build it again with GDEXT_CUDA=1 to " \
                "compute on ",                                                       \
                ::gdext::show_device(like));                                         \
    ::gdext::run(like, args, &::gdext::cpu::op, {});                                 \
  } while (false)
#endif

}  // namespace gdext
