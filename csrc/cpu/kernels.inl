// The kernels for one instruction set: included by each isa_*.cpp, which has set the compiler's
// target and defined GDEXT_ISA (its name) and GDEXT_VEC_BYTES (its vectors' size). With
// GDEXT_BF16_PAIRS, only those that multiply bfloat16: the rest is that of a lesser set.
#define GDEXT_STRING_(x) #x
#define GDEXT_STRING(x) GDEXT_STRING_(x)

namespace gdext::cpu::GDEXT_ISA {

// clang-format off: each uses those above it
#include "cpu/vec.h"
#include "cpu/lanes.inl"
#include "cpu/vmath.inl"
#include "common/activation_formulas.inl"
#include "common/loss_formulas.inl"
#include "cpu/elementwise.inl"
#include "cpu/reduce.inl"
#include "cpu/transpose.inl"
#include "cpu/micro.inl"
#include "cpu/pack.inl"
#if defined(GDEXT_BF16_PAIRS)
#include "cpu/pack_pairs.inl"
#endif
#include "cpu/dot.inl"
#include "cpu/gemm_kernels.inl"
#include "cpu/gemm.inl"
#include "cpu/linear.inl"
#if !defined(GDEXT_BF16_PAIRS)
#include "cpu/mse.inl"
#include "cpu/cross_entropy.inl"
#include "cpu/sgd.inl"
#include "cpu/mlp_layout.inl"
#include "cpu/mlp_products.inl"
#include "cpu/mlp_small.inl"
#include "cpu/mlp_update.inl"
#include "cpu/mlp_gather.inl"
#include "cpu/mlp_loss.inl"
#include "cpu/mlp_state.inl"
#include "cpu/mlp.inl"
#include "cpu/peak.inl"

extern const KernelTable table;
const KernelTable table = {
    GDEXT_STRING(GDEXT_ISA),
    linear,
    linear_backward,
    activation_double_backward,
    mse,
    mse_backward,
    mse_double_backward,
    cross_entropy,
    cross_entropy_backward,
    cross_entropy_double_backward,
    sgd,
    mlp_sizes,
    mlp,
    fma_peak,
    bandwidth,
};
#endif
// clang-format on

}  // namespace gdext::cpu::GDEXT_ISA
