// Lends PyTorch's thread pool (torch.set_num_threads) to the CPU kernels.
#include "cpu/parallel.h"

#include <torch/csrc/stable/ops.h>

namespace {

void parallel_for(int64_t begin, int64_t end, int64_t grain,
                  void (*body)(const void*, int64_t, int64_t), const void* context) {
  torch::stable::parallel_for(begin, end, grain,
                              [&](int64_t b, int64_t e) { body(context, b, e); });
}

[[maybe_unused]] const bool lent = [] {
  gdext::cpu::set_parallel_for(parallel_for,
                               [] { return static_cast<int>(torch::stable::get_num_threads()); });
  return true;
}();

}  // namespace
