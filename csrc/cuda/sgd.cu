// sgd on CUDA (contract/sgd.h): many tensors in one launch.
//
// A launch carries a table of tensors in its parameters (4 KB at most). Each block updates one
// chunk of one tensor; the table says at which block a tensor's chunks begin.
#include "common/sgd_rule.h"
#include "contract/sgd.h"
#include "cuda/common.cuh"

namespace gdext::cuda {
namespace {

constexpr int kTableSize = 64;
constexpr int64_t kChunk = 4096;  // elements; a multiple of every vector width
constexpr int kVectorBytes = 16;

struct SgdTable {
  SgdTensor tensors[kTableSize];
  int64_t first_block[kTableSize];
  int count = 0;
};
static_assert(sizeof(SgdTable) + sizeof(SgdRule<double>) + 3 * sizeof(void*) <= 4096);

// Updates elements [begin, end); their number is a multiple of kWidth.
template <int kWidth, class T>
__device__ void update_range(const SgdTensor& tensor, int64_t begin, int64_t end,
                             const SgdRule<acc_t<T>>& rule, const float* grad_scale) {
  using A = acc_t<T>;
  using P = Pack<T, kWidth>;
  const bool has_momentum = rule.has_momentum;
  const A scale = grad_scale ? static_cast<A>(*grad_scale) : A(1);
  for (int64_t i = begin + static_cast<int64_t>(threadIdx.x) * kWidth; i < end;
       i += kThreads * kWidth) {
    P* p_at = reinterpret_cast<P*>(static_cast<T*>(tensor.p) + i);
    P* g_at = reinterpret_cast<P*>(static_cast<T*>(tensor.g) + i);
    P* m_at = reinterpret_cast<P*>(static_cast<T*>(tensor.m) + i);
    P p = *p_at, g = *g_at, m = {};
    if (has_momentum && !tensor.first) m = *m_at;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      A pj = static_cast<A>(p.value[j]), gj = static_cast<A>(g.value[j]);
      A mj = static_cast<A>(m.value[j]);
      if (grad_scale) gj /= scale;
      rule(pj, gj, mj, tensor.first);
      p.value[j] = T(pj);
      g.value[j] = T(gj);
      m.value[j] = T(mj);
    }
    *p_at = p;
    if (has_momentum) *m_at = m;
    if (grad_scale) *g_at = g;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    sgd_kernel(const __grid_constant__ SgdTable table, SgdRule<acc_t<T>> rule,
               const double* lr_tensor, const float* grad_scale, const float* found_inf) {
  if (found_inf && *found_inf != 0.0f) return;
  if (lr_tensor) rule.lr = static_cast<acc_t<T>>(*lr_tensor);
  int t = table.count - 1;
  while (blockIdx.x < table.first_block[t]) --t;
  const SgdTensor& tensor = table.tensors[t];
  const int64_t begin = (blockIdx.x - table.first_block[t]) * kChunk;
  const int64_t end = begin + kChunk < tensor.n ? begin + kChunk : tensor.n;
  const auto address = reinterpret_cast<uintptr_t>(tensor.p) |
                       reinterpret_cast<uintptr_t>(tensor.g) |
                       reinterpret_cast<uintptr_t>(tensor.m);
  constexpr int kWidth = kVectorBytes / sizeof(T);
  const int64_t vectors_end =
      address % kVectorBytes == 0 ? begin + (end - begin) / kWidth * kWidth : begin;
  update_range<kWidth, T>(tensor, begin, vectors_end, rule, grad_scale);
  update_range<1, T>(tensor, vectors_end, end, rule, grad_scale);
}

}  // namespace

void sgd(const SgdArgs& args, Context context) {
  for_dtype(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const SgdRule<A> rule(args.lr, args.momentum, args.dampening, args.weight_decay, args.nesterov,
                          args.maximize);
    SgdTable table;
    int64_t blocks = 0;
    const auto flush = [&] {
      launch("sgd", sgd_kernel<T>, blocks, kThreads, context, table, rule, args.lr_tensor,
             args.grad_scale, args.found_inf);
      table.count = 0;
      blocks = 0;
    };
    for (int64_t i = 0; i < args.count; ++i) {
      if (args.tensors[i].n == 0) continue;
      if (table.count == kTableSize) flush();
      table.tensors[table.count] = args.tensors[i];
      table.first_block[table.count++] = blocks;
      blocks += ceil_div(args.tensors[i].n, kChunk);
    }
    flush();
  });
}

}  // namespace gdext::cuda
