// In the module of the CUDA kernels alone, in place of csrc/cpu: an op that reached a CPU kernel
// would throw here, or call a null pointer of the table.
#include <stdexcept>

#include "contract/path_sum.h"
#include "cpu/kernels.h"

namespace gdext::cpu {

namespace {
[[noreturn]] void refuse() { throw std::runtime_error("there are no CPU kernels in this module"); }
}  // namespace

const char* compiled_isas() { return "none"; }
const KernelTable& kernels() {
  static const KernelTable none{"none"};
  return none;
}
MlpSizes mlp_sizes(const MlpArgs&) { refuse(); }
int64_t mlp(const MlpArgs&, Context) { refuse(); }
void path_sum(const PathSumArgs&, Context) { refuse(); }
void fma_peak(const FmaPeakArgs&, Context) { refuse(); }
void bandwidth(const BandwidthArgs&, Context) { refuse(); }

}  // namespace gdext::cpu
