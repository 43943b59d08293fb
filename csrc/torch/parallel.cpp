// Lends PyTorch's thread pool (torch.set_num_threads) to the CPU kernels.
#include "cpu/parallel.h"

#include <pthread.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <exception>
#include <vector>

#include "cpu/team.h"

namespace {

bool forked = false;

// PyTorch's ranges, on threads of our own.
void parallel_for_on_team(int64_t begin, int64_t end, int64_t grain,
                          void (*body)(const void*, int64_t, int64_t), const void* context) {
  const auto divide = [](int64_t n, int64_t by) { return (n + by - 1) / by; };
  const int64_t count =
      std::min<int64_t>(torch::stable::get_num_threads(), divide(end - begin, grain));
  const int64_t length = divide(end - begin, count);
  std::vector<std::exception_ptr> thrown(count);
  gdext::cpu::run_team(static_cast<int>(count), [&](gdext::cpu::Member& member) {
    const int64_t first = begin + member.index * length;
    try {
      if (first < end) body(context, first, std::min(first + length, end));
    } catch (...) {
      thrown[member.index] = std::current_exception();
    }
  });
  for (const std::exception_ptr& exception : thrown)
    if (exception) std::rethrow_exception(exception);
}

void parallel_for(int64_t begin, int64_t end, int64_t grain,
                  void (*body)(const void*, int64_t, int64_t), const void* context) {
  // GNU's OpenMP, which is PyTorch's pool, waits for ever in a forked process for the threads that
  // it had in the parent.
  if (forked) return parallel_for_on_team(begin, end, grain, body, context);
  torch::stable::parallel_for(begin, end, grain,
                              [&](int64_t b, int64_t e) { body(context, b, e); });
}

[[maybe_unused]] const bool lent = [] {
  pthread_atfork(nullptr, nullptr, [] { forked = true; });
  gdext::cpu::set_parallel_for(parallel_for,
                               [] { return static_cast<int>(torch::stable::get_num_threads()); });
  return true;
}();

}  // namespace
