// A run of steps in its resident form (mlp_resident.cuh): where its blocks have what, on how many
// blocks it is fastest, and its launches.
#include <algorithm>
#include <vector>

#include "common/arena.h"
#include "cuda/mlp_exchange.cuh"
#include "cuda/mlp_forms.cuh"
#include "cuda/mlp_graph.cuh"
#include "cuda/mlp_resident.cuh"

namespace gdext::cuda {
namespace {

template <int kB, class Exchange>
__global__ void __launch_bounds__(kResidentThreads, 1)
    mlp_resident_kernel(const __grid_constant__ ResidentArgs args, int64_t begin, int64_t end,
                        int shared_size) {
  Resident<kB, Exchange>(args, reinterpret_cast<float*>(ptx::dynamic_shared()))
      .run(begin, end, shared_size);
}

int round_up(int64_t n, int64_t to) { return static_cast<int>(ceil_div(n, to) * to); }

// Hands out places in shared memory, in floats, at multiples of 16 bytes.
class Places {
 public:
  int take(int64_t floats) {
    const int64_t place = used_;
    used_ += ceil_div(floats, 4) * 4;
    return static_cast<int>(std::min<int64_t>(place, std::numeric_limits<int>::max()));
  }
  int64_t used() const { return used_; }

 private:
  int64_t used_ = 0;
};

// The arguments of the kernel, and what they need.
struct Layout {
  ResidentArgs args;
  int kB;
  int64_t shared_bytes;
  int64_t cost;  // estimated clock cycles of a step

  Layout(const MlpArgs& from, const MlpResidentPlan& plan);
};

ResidentParameter parameter_of(const MlpParameter& from, const MlpGroup& group) {
  const bool momentum = group.momentum != 0;
  return {static_cast<float*>(from.data),
          momentum ? static_cast<float*>(from.momentum) : nullptr,
          from.row_stride,
          from.col_stride,
          from.momentum_row_stride,
          from.momentum_col_stride,
          from.first,
          from.group,
          {0, group.momentum, group.dampening, group.weight_decay, group.nesterov, group.maximize},
          !momentum && group.weight_decay == 0};
}

// Estimates, in clock cycles of an H100; docs/experiments.md has where they are from.
constexpr int64_t kSharedBytesPerCycle = 128, kGlobalBytesPerCycle = 32;
constexpr int64_t kIssuedPerCycle = 4;  // warps' instructions
constexpr int64_t kBlockMeets = 60, kClusterMeets = 600, kGridMeets = 3000;

Layout::Layout(const MlpArgs& from, const MlpResidentPlan& plan)
    : args(from),
      kB(from.B <= 1   ? 1
         : from.B <= 2 ? 2
         : from.B <= 4 ? 4
                       : 8) {
  constexpr int kWarps = kResidentThreads / kWarp, kRowsAligned = MlpSlice::kMostRun;
  const int L = static_cast<int>(from.L), R = plan.blocks;
  args.L = L, args.R = R, args.groups = static_cast<int>(from.group_count);
  args.samples = from.samples, args.lr = from.lr, args.loss = from.losses;
  args.momentum_shared = plan.momentum_shared;
  for (int g = 0; g < args.groups; ++g) args.lr_of_group[g] = from.groups[g].lr;

  Places shared, elsewhere;
  Places& momenta = plan.momentum_shared ? shared : elsewhere;
  int64_t area = 0, sums = 0, weights = 0, moved = 0;
  for (int l = 0; l < L; ++l) {
    const MlpLayer& layer = from.layers[l];
    ResidentLayer& to = args.layer[l];
    const bool by_outputs = l == 0 && L > 1, last = l == L - 1;
    to.I = static_cast<int>(layer.I), to.O = static_cast<int>(layer.O);
    to.own_in = by_outputs ? to.I : static_cast<int>(ceil_div(to.I, R));
    to.own_out = last ? to.O : static_cast<int>(ceil_div(to.O, R));
    to.activation = layer.activation;
    to.weight = parameter_of(layer.w, from.groups[layer.w.group]);
    to.bias = parameter_of(layer.b, from.groups[layer.b.group]);

    MlpSlice& slice = to.slice;
    slice = {};
    const int columns = by_outputs ? to.own_out : to.O;
    slice.width = columns <= 8 ? 8 : columns <= 16 ? 16 : 32;
    slice.pitch = round_up(columns, slice.width);
    slice.rows = round_up(to.own_in, kRowsAligned);
    const int64_t size = static_cast<int64_t>(slice.rows) * slice.pitch;
    to.w = shared.take(size);
    if (to.weight.m) to.m = momenta.take(size);
    to.b = shared.take(to.own_out);
    to.mb = shared.take(to.bias.m ? to.own_out : 0);
    const int units = round_up(to.own_out, kRowsAligned) * kB;
    to.h = shared.take(units), to.s = shared.take(units), to.dz = shared.take(units);

    sums = std::max<int64_t>(sums, static_cast<int64_t>(slice.shares(kWarps)) * slice.pitch * kB);
    if (l > 0)
      sums = std::max<int64_t>(sums, static_cast<int64_t>(slice.tiles()) * slice.rows * kB);
    const int64_t terms = static_cast<int64_t>(R) * to.own_out * kB, whole = int64_t{to.O} * kB;
    if (!by_outputs) area = std::max(area, terms);
    if (!last) area = std::max(area, whole);
    // A pass reads the weights, or reads and writes them; the first layer has one less.
    weights += size * (by_outputs || L == 1 ? 2 : 3);
    if (to.weight.m) moved += 2 * size;
  }
  args.momentum_size = elsewhere.used();
  args.sums = shared.take(sums);
  args.area = round_up(area, 4);
  args.exchange = shared.take(plan.grid ? 0 : 2 * args.area);
  const int own = args.layer[0].own_in, C = args.layer[L - 1].O;
  args.x_rows = args.layer[0].slice.rows;
  for (int& place : args.x) place = shared.take(int64_t{args.x_rows} * kB);
  args.bytes_pitch = round_up(own, 16);
  args.bytes = shared.take(from.input_bytes ? args.bytes_pitch * kB / 4 : 0);
  args.words = reinterpret_cast<uintptr_t>(from.inputs) % 4 == 0 &&
               from.input_row_stride % 4 == 0 && (L > 1 || own % 4 == 0);
  const int64_t of_targets = from.loss == MlpLoss::mse ? int64_t{C} * kB : 2 * kB;
  for (int& place : args.targets) place = shared.take(of_targets);
  for (int& place : args.order) place = shared.take(2 * kB);
  for (int& place : args.rates) place = shared.take(2 * args.groups);
  args.losses = shared.take(2 * kB);
  shared_bytes = shared.used() * static_cast<int64_t>(sizeof(float));

  const int64_t meetings = L == 1 ? 1 : 2 * L - 3;
  const int64_t meets = plan.grid ? kGridMeets : R > 1 ? kClusterMeets : kBlockMeets;
  // Each number of each sample is read, and takes an instruction, in three products.
  const int64_t arithmetic = weights * (2 + kB) / kWarp / kIssuedPerCycle;
  const int64_t by_shared = weights * static_cast<int64_t>(sizeof(float)) / kSharedBytesPerCycle;
  const int64_t by_momentum = moved * static_cast<int64_t>(sizeof(float)) /
                              (plan.momentum_shared ? kSharedBytesPerCycle : kGlobalBytesPerCycle);
  cost = std::max(arithmetic, by_shared) + by_momentum + meetings * meets;
}

// What the current device offers.
struct Offers {
  int capability = code_capability(), multiprocessors = 0, shared_bytes = 0, cooperative = 0;
  Offers() {
    int device = 0;
    check_cuda("device", cudaGetDevice(&device));
    const auto ask = [&](int& value, cudaDeviceAttr what) {
      check_cuda("attribute of the device", cudaDeviceGetAttribute(&value, what, device));
    };
    ask(multiprocessors, cudaDevAttrMultiProcessorCount);
    ask(shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
    ask(cooperative, cudaDevAttrCooperativeLaunch);
  }
};

// Calls f(kernel) with the one for these.
template <class F>
void with_kernel(int kB, const MlpResidentPlan& plan, const F& f) {
  const auto of_batch = [&](auto exchange) {
    using Exchange = typename decltype(exchange)::type;
    kB == 1   ? f(mlp_resident_kernel<1, Exchange>)
    : kB == 2 ? f(mlp_resident_kernel<2, Exchange>)
    : kB == 4 ? f(mlp_resident_kernel<4, Exchange>)
              : f(mlp_resident_kernel<8, Exchange>);
  };
  if (plan.grid)
    of_batch(std::type_identity<GridExchange>{});
  else if (plan.blocks > 1)
    of_batch(std::type_identity<ClusterExchange>{});
  else
    of_batch(std::type_identity<LocalExchange>{});
}
LaunchShape launch_shape(const MlpResidentPlan& plan, int64_t shared_bytes) {
  return {.blocks = plan.blocks,
          .threads = kResidentThreads,
          .dynamic_shared = static_cast<size_t>(shared_bytes),
          .cluster = plan.grid ? 1 : plan.blocks,
          .cooperative = plan.grid};
}

// Whether the device has what such blocks need; `runs_together` says the rest, and takes longer.
bool fits(const MlpResidentPlan& plan, const Layout& layout, const Offers& offers) {
  if (layout.shared_bytes > offers.shared_bytes || offers.capability < 80) return false;
  if (plan.grid) return offers.cooperative && plan.blocks <= offers.multiprocessors;
  return plan.blocks == 1 || offers.capability >= 90;
}
bool runs_together(const MlpResidentPlan& plan, const Layout& layout) {
  if (plan.grid || plan.blocks == 1) return true;
  int clusters = 0;
  with_kernel(layout.kB, plan, [&](auto kernel) {
    clusters = clusters_at_once(kernel, launch_shape(plan, layout.shared_bytes));
  });
  return clusters > 0;
}

bool is_for_resident(const MlpArgs& args) {
  return args.dtype == DType::f32 && args.B <= kResidentBatch && args.L <= kResidentLayers &&
         args.group_count <= kResidentLayers && !args.layers[0].w.gradient && !args.norms &&
         args.form != MlpForm::layers &&
         std::all_of(args.layers, args.layers + args.L, [](const MlpLayer& layer) {
           constexpr int64_t kMost = 1 << 16;  // far beyond what fits
           return layer.I <= kMost && layer.O <= kMost;
         });
}

class MlpResidentRun final : public MlpRun {
 public:
  MlpResidentRun(const MlpArgs& args, const MlpResidentPlan& plan, void* scratch, Context context)
      : plan_(plan), layout_(args, plan), context_(context) {
    Arena arena(scratch);
    const int64_t R = plan.blocks;
    if (plan.grid) layout_.args.areas = arena.take<float>(2 * (R + 1) * layout_.args.area);
    layout_.args.momentum = arena.take<float>(R * layout_.args.momentum_size);
    bytes_ = arena.used();
  }
  int64_t bytes() const { return bytes_; }

  void take(int64_t steps) override {
    with_kernel(layout_.kB, plan_, [&](auto kernel) {
      launch("mlp, resident", kernel, launch_shape(plan_, layout_.shared_bytes), context_,
             layout_.args, taken_, taken_ + steps,
             static_cast<int>(layout_.shared_bytes / static_cast<int64_t>(sizeof(float))));
    });
    taken_ += steps;
  }
  int64_t steps_at_once() const override {
    constexpr int64_t kCycles = 20 * 1000 * 1000;  // some ten milliseconds
    return std::max<int64_t>(kCycles / layout_.cost, 1);
  }

 private:
  const MlpResidentPlan plan_;
  Layout layout_;
  const Context context_;
  int64_t bytes_, taken_ = 0;
};

}  // namespace

MlpResidentPlan mlp_resident_plan(const MlpArgs& args) {
  const bool chosen = args.form == MlpForm::cluster || args.form == MlpForm::grid;
  struct Candidate {
    MlpResidentPlan plan;
    Layout layout;
  };
  std::vector<Candidate> candidates;
  if (is_for_resident(args)) {
    const Offers offers;
    const auto consider = [&](int blocks, bool grid) {
      for (const bool momentum_shared : {true, false}) {
        const MlpResidentPlan plan{blocks, grid, momentum_shared};
        const Layout layout(args, plan);
        if (!fits(plan, layout, offers)) continue;
        candidates.push_back({plan, layout});
        break;
      }
    };
    if (chosen) {
      consider(args.blocks, args.form == MlpForm::grid);
    } else {
      for (const int blocks : {1, 2, 4, 8, 16}) consider(blocks, false);
      // As few as have the same number of units of the widest layer each.
      int64_t widest = 1;
      for (int64_t l = 0; l < args.L; ++l) widest = std::max(widest, args.layers[l].O);
      const int64_t units = ceil_div(widest, offers.multiprocessors);
      if (widest > 1) consider(static_cast<int>(ceil_div(widest, units)), true);
    }
  }
  std::stable_sort(
      candidates.begin(), candidates.end(),
      [](const Candidate& a, const Candidate& b) { return a.layout.cost < b.layout.cost; });
  for (const Candidate& candidate : candidates)
    if (runs_together(candidate.plan, candidate.layout)) return candidate.plan;
  if (chosen) throw std::logic_error("gdext: mlp: the form that was chosen does not fit");
  return {};
}

int64_t mlp_resident_scratch(const MlpArgs& args, const MlpResidentPlan& plan) {
  return MlpResidentRun(args, plan, nullptr, {}).bytes();
}

std::unique_ptr<MlpRun> mlp_resident(const MlpArgs& args, const MlpResidentPlan& plan,
                                     void* scratch, Context context) {
  return std::make_unique<MlpResidentRun>(args, plan, scratch, context);
}

}  // namespace gdext::cuda
