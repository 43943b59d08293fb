// Chooses the instruction set once, at first use, and forwards each contract to its kernel.
#include <cstdlib>
#include <memory>

#include "cpu/kernels.h"

namespace gdext::cpu {

namespace scalar {
extern const KernelTable table;
}
#if defined(__x86_64__)
namespace avx2 {
extern const KernelTable table;
}
namespace avx512 {
extern const KernelTable table;
}
namespace avx512bf16 {
extern const Bf16Kernels kernels;
// avx512's kernels, and for bfloat16 the own ones. Made here, where no code is compiled for more
// than any processor has.
const KernelTable table = [] {
  KernelTable made = avx512::table;
  made.isa = "avx512bf16";
  made.linear = [](const LinearArgs& args) {
    (args.dtype == DType::bf16 ? kernels.linear : avx512::table.linear)(args);
  };
  made.linear_backward = [](const LinearBackwardArgs& args) {
    (args.dtype == DType::bf16 ? kernels.linear_backward : avx512::table.linear_backward)(args);
  };
  return made;
}();
}  // namespace avx512bf16
#elif defined(__aarch64__)
namespace neon {
extern const KernelTable table;
}
#endif

namespace {

struct Isa {
  const KernelTable* table;
  bool present;
};

// Best first.
const auto& isas() {
#if defined(__x86_64__)
  const bool avx512_present =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#if defined(GDEXT_BF16_SOFTWARE)
  const bool pairs_present = true;
#else
  const bool pairs_present = __builtin_cpu_supports("avx512bf16");
#endif
  static const std::array<Isa, 4> all = {{
      {&avx512bf16::table, avx512_present && pairs_present},
      {&avx512::table, avx512_present},
      {&avx2::table, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                         __builtin_cpu_supports("f16c")},
      {&scalar::table, true},
  }};
#elif defined(__aarch64__)
  static const std::array<Isa, 2> all = {{{&neon::table, true}, {&scalar::table, true}}};
#else
  static const std::array<Isa, 1> all = {{{&scalar::table, true}}};
#endif
  return all;
}

const KernelTable& choose() {
  const char* forced = std::getenv("GDEXT_CPU_ISA");
  for (const Isa& isa : isas()) {
    if (forced && *forced && std::string(forced) != isa.table->isa) continue;
    if (isa.present) return *isa.table;
    if (forced && *forced) {
      throw std::runtime_error(std::string("GDEXT_CPU_ISA=") + forced +
                               ": this processor does not have that instruction set");
    }
  }
  throw std::runtime_error(std::string("GDEXT_CPU_ISA=") + forced + ": wanted one of " +
                           compiled_isas());
}

ParallelFor parallel_for_function = nullptr;
int (*thread_count_function)() = nullptr;

}  // namespace

const char* compiled_isas() {
  static const std::string names = [] {
    std::string joined;
    for (const Isa& isa : isas()) {
      if (!joined.empty()) joined += ',';
      joined += isa.table->isa;
    }
    return joined;
  }();
  return names.c_str();
}

const KernelTable& kernels() {
  static const KernelTable& chosen = choose();
  return chosen;
}

void set_parallel_for(ParallelFor function, int (*count)()) {
  parallel_for_function = function;
  thread_count_function = count;
}

void parallel_for_raw(int64_t begin, int64_t end, int64_t grain,
                      void (*body)(const void*, int64_t, int64_t), const void* context) {
  if (parallel_for_function) {
    parallel_for_function(begin, end, grain, body, context);
  } else {
    body(context, begin, end);
  }
}

int thread_count() { return thread_count_function ? thread_count_function() : 1; }

void* scratch(size_t bytes) {
  constexpr size_t kLine = 64;
  thread_local std::unique_ptr<char[]> memory;
  thread_local size_t size = 0;
  if (size < bytes + kLine) {
    memory.reset();  // first, so that the peak is one buffer and not two
    memory.reset(new char[bytes + kLine]);
    size = bytes + kLine;
  }
  const auto address = reinterpret_cast<uintptr_t>(memory.get());
  return memory.get() + (kLine - address % kLine) % kLine;
}

#define GDEXT_FORWARD(op, Args) \
  void op(const Args& args, Context) { kernels().op(args); }
GDEXT_FORWARD(linear, LinearArgs)
GDEXT_FORWARD(linear_backward, LinearBackwardArgs)
GDEXT_FORWARD(activation_double_backward, ActivationDoubleBackwardArgs)
GDEXT_FORWARD(mse, MseArgs)
GDEXT_FORWARD(mse_backward, MseBackwardArgs)
GDEXT_FORWARD(mse_double_backward, MseDoubleBackwardArgs)
GDEXT_FORWARD(cross_entropy, CrossEntropyArgs)
GDEXT_FORWARD(cross_entropy_backward, CrossEntropyBackwardArgs)
GDEXT_FORWARD(cross_entropy_double_backward, CrossEntropyDoubleBackwardArgs)
GDEXT_FORWARD(sgd, SgdArgs)
GDEXT_FORWARD(fma_peak, FmaPeakArgs)
GDEXT_FORWARD(bandwidth, BandwidthArgs)
#undef GDEXT_FORWARD
MlpSizes mlp_sizes(const MlpArgs& args) { return kernels().mlp_sizes(args); }
int64_t mlp(const MlpArgs& args, Context) { return kernels().mlp(args); }

}  // namespace gdext::cpu
