// The table of CPU kernels, one per instruction set. Each isa_*.cpp fills one from the same .inl
// files.
#pragma once
// All standard headers that the .inl files use: these must come before an isa_*.cpp switches the
// compiler's target, so that no inline function of theirs is compiled for a newer instruction set.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "common/activation.h"
#include "common/arena.h"
#include "common/dtype.h"
#include "common/sgd_rule.h"
#include "contract/cross_entropy.h"
#include "contract/linear.h"
#include "contract/mlp.h"
#include "contract/mse.h"
#include "contract/peak.h"
#include "contract/sgd.h"
#include "cpu/parallel.h"
#include "cpu/team.h"

namespace gdext::cpu {

struct KernelTable {
  const char* isa;
  void (*linear)(const LinearArgs&);
  void (*linear_backward)(const LinearBackwardArgs&);
  void (*activation_double_backward)(const ActivationDoubleBackwardArgs&);
  void (*mse)(const MseArgs&);
  void (*mse_backward)(const MseBackwardArgs&);
  void (*mse_double_backward)(const MseDoubleBackwardArgs&);
  void (*cross_entropy)(const CrossEntropyArgs&);
  void (*cross_entropy_backward)(const CrossEntropyBackwardArgs&);
  void (*cross_entropy_double_backward)(const CrossEntropyDoubleBackwardArgs&);
  void (*sgd)(const SgdArgs&);
  MlpSizes (*mlp_sizes)(const MlpArgs&);
  int64_t (*mlp)(const MlpArgs&);
  void (*fma_peak)(const FmaPeakArgs&);
  void (*bandwidth)(const BandwidthArgs&);
};

// What an instruction set adds for bfloat16 alone.
struct Bf16Kernels {
  void (*linear)(const LinearArgs&);
  void (*linear_backward)(const LinearBackwardArgs&);
};

// Names of the compiled instruction sets, best first, separated by commas.
const char* compiled_isas();
// The table in use: the best that this processor has, or the one that GDEXT_CPU_ISA names. Throws
// std::runtime_error where that is unknown, not compiled or not there.
const KernelTable& kernels();

}  // namespace gdext::cpu
