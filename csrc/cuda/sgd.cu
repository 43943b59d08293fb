// sgd on CUDA (contract/sgd.h): one launch for a list of tensors, in 16-byte vectors.
//
// A block updates one chunk of one tensor (sgd_table.cuh). Vectors lie on 16-byte boundaries; the
// elements before a tensor's first one and after its last are taken one by one, and so is all of a
// tensor whose p, g and m lie differently between boundaries. Each thread loads all that it works
// on before it stores anything: the update waits for memory alone, and memory wants many loads at
// once.
#include "common/sgd_rule.h"
#include "cuda/pinned.cuh"
#include "cuda/sgd_table.cuh"

namespace gdext::cuda {
namespace {

constexpr int kSmallTable = 112;  // tensors: 4 KB of parameters
constexpr int kLargeTable = kSgdTensorsInParameters;

template <class T>
struct SgdUpdate {
  SgdRule<acc_t<T>> rule;
  const void* lr_tensor;
  DType lr_dtype;
  const float* grad_scale;
  const float* found_inf;
};
static_assert(sizeof(SgdTable<kSmallTable>) + sizeof(SgdUpdate<double>) <= 4096);
static_assert(sizeof(SgdTable<kLargeTable>) + sizeof(SgdUpdate<double>) <= 32764);

// kWidth neighbours of p, g and m.
template <class T, int kWidth>
struct Elements {
  Pack<T, kWidth> p, g, m;
};

template <class T, int kWidth>
__device__ Pack<T, kWidth>& pack_at(T* data, int i) {
  return *reinterpret_cast<Pack<T, kWidth>*>(data + i);
}

// One chunk of a tensor, whose element i is here p[i], g[i] and m[i] for low <= i < high.
template <class T>
struct Chunk {
  using A = acc_t<T>;
  T *p, *g, *m;
  int low, high;
  bool first;
  SgdRule<A> rule;
  A scale;
  bool scaled;

  template <int kWidth>
  __device__ void update() const {
    constexpr int kVectors = SgdChunks<T>::kVectors, kStep = kThreads * kWidth;
    const auto whole = [&](int i) { return i >= low && i + kWidth <= high; };
    for (int base = threadIdx.x * kWidth; base < high; base += kVectors * kStep) {
      Elements<T, kWidth> loaded[kVectors];
#pragma unroll
      for (int v = 0; v < kVectors; ++v)
        if (whole(base + v * kStep)) load(loaded[v], base + v * kStep);
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const int i = base + v * kStep;
        if (whole(i)) {
          update_and_store(loaded[v], i);
        } else if (kWidth > 1) {
#pragma unroll 1
          for (int j = i < low ? low : i; j < i + kWidth && j < high; ++j) {
            Elements<T, 1> one;
            load(one, j);
            update_and_store(one, j);
          }
        }
      }
    }
  }

  template <int kWidth>
  __device__ void load(Elements<T, kWidth>& e, int i) const {
    e.p = pack_at<T, kWidth>(p, i);
    e.g = pack_at<T, kWidth>(g, i);
    e.m = {};
    if (rule.has_momentum && !first) e.m = pack_at<T, kWidth>(m, i);
  }

  template <int kWidth>
  __device__ void update_and_store(Elements<T, kWidth>& e, int i) const {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      A pj = static_cast<A>(e.p.value[j]), gj = static_cast<A>(e.g.value[j]);
      A mj = static_cast<A>(e.m.value[j]);
      if (scaled) gj /= scale;
      rule(pj, gj, mj, first);
      e.p.value[j] = T(pj);
      e.g.value[j] = T(gj);
      e.m.value[j] = T(mj);
    }
    pack_at<T, kWidth>(p, i) = e.p;
    if (rule.has_momentum) pack_at<T, kWidth>(m, i) = e.m;
    if (scaled) pack_at<T, kWidth>(g, i) = e.g;
  }
};

template <class T, class Table>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    sgd_kernel(const __grid_constant__ Table table, const __grid_constant__ SgdUpdate<T> update) {
  using A = acc_t<T>;
  constexpr int64_t kChunk = SgdChunks<T>::kChunk;
  if (update.found_inf && *update.found_inf != 0.0f) return;
  const SgdPlace place = find_chunk<T>(table, blockIdx.x);
  const SgdEntry& tensor = place.tensor;
  const int lead = SgdChunks<T>::lead(tensor);
  const int64_t begin = place.chunk * kChunk - lead, left = static_cast<int64_t>(tensor.n) - begin;
  const auto from_begin = [&](void* data) {
    return data ? static_cast<T*>(data) + begin : nullptr;
  };
  Chunk<T> chunk{from_begin(tensor.p),
                 from_begin(tensor.g),
                 from_begin(tensor.m),
                 place.chunk == 0 ? lead : 0,
                 static_cast<int>(left < kChunk ? left : kChunk),
                 tensor.first != 0,
                 update.rule,
                 update.grad_scale ? static_cast<A>(*update.grad_scale) : A(1),
                 update.grad_scale != nullptr};
  if (update.lr_tensor) chunk.rule.lr = static_cast<A>(read_lr(update.lr_tensor, update.lr_dtype));
  if (SgdChunks<T>::in_step(tensor))
    chunk.template update<SgdChunks<T>::kWidth>();
  else
    chunk.template update<1>();
}

}  // namespace

std::shared_ptr<Pinned> sgd_staging(int64_t count) {
  const int64_t bytes = sgd_workspace_bytes(count);
  return bytes ? take_pinned(static_cast<size_t>(bytes)) : nullptr;
}

void sgd(const SgdArgs& args, Context context) {
  for_dtype(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    const SgdUpdate<T> update{
        {args.lr, args.momentum, args.dampening, args.weight_decay, args.nesterov, args.maximize},
        args.lr_tensor,
        args.lr_dtype,
        args.grad_scale,
        args.found_inf};
    const auto launch_with = [&](const auto& table, int64_t blocks) {
      launch("sgd", sgd_kernel<T, std::decay_t<decltype(table)>>, blocks, kThreads, context, table,
             update);
    };
    const auto launch_with_parameters = [&](auto capacity) {
      SgdTable<decltype(capacity)::value> table;
      const int64_t blocks = fill<T>(table, args);
      launch_with(table, blocks);
    };
    if (args.count <= kSmallTable) {
      launch_with_parameters(std::integral_constant<int, kSmallTable>{});
    } else if (args.count <= kLargeTable) {
      launch_with_parameters(std::integral_constant<int, kLargeTable>{});
    } else {
      if (!args.workspace) throw std::logic_error("gdext: sgd: wanted a workspace");
      const auto staging = args.staging ? args.staging : sgd_staging(args.count);
      SgdTableInMemory table(address_of(*staging), args.count);
      const int64_t blocks = fill<T>(table, args);
      copy_to_device(staging, args.workspace, sgd_workspace_bytes(args.count), context);
      launch_with(SgdTableInMemory(args.workspace, args.count, table.count), blocks);
    }
  });
}

}  // namespace gdext::cuda
