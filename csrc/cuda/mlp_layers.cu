// A run of steps in its general form: for each step a fixed sequence of kernels,
//
//   gather (and the norm of the loss)
//   h[l] = f(h[l-1] w[l]^T + b[l])                      for l = 1..L
//   loss, dz[L]
//   dz[l-1] = (dz[l] w[l]) f'[l-1],  w[l] <- dz[l]^T h[l-1]   for l = L..1: w is read before it
//   changes b[l] <- sum_b dz[l] for all l, losses[n], n + 1
//
// all of whose arguments are the same for every full batch: the number of the step is on the
// device. Several steps are one CUDA graph, where enough of them follow to pay for making it.
#include <algorithm>
#include <vector>

#include "common/arena.h"
#include "cuda/mlp_forms.cuh"
#include "cuda/mlp_graph.cuh"
#include "cuda/mlp_layers.cuh"

namespace gdext::cuda {
namespace {

constexpr int64_t kStepsInGraph = 8;
constexpr int64_t kLeastStepsForGraph = 4 * kStepsInGraph;

__global__ void mlp_begin_kernel(MlpClock* clock) { clock->next = 0; }

// Learning rates that stay the same, on their way to the device.
struct MlpRates {
  static constexpr int kMost = 64;
  int count = 0;
  double rate[kMost] = {};
};
__global__ void mlp_rates_kernel(const MlpRates from, double* to) {
  const int g = threadIdx.x;
  if (g < from.count) to[g] = from.rate[g];
}

template <class T>
class MlpLayersRun final : public MlpRun {
 public:
  MlpLayersRun(const MlpArgs& args, void* scratch, Context context)
      : args_(args), context_(context), batches_(args), targets_(args) {
    Arena arena(scratch);
    clock_ = arena.take<MlpClock>(1);
    rates_ = arena.take<double>(args.group_count);
    partials_ = arena.take<double>(kPartials);
    x_ = arena.take<T>(args.B * args.layers[0].I);
    for (int64_t l = 0; l < args.L; ++l) {
      const MlpLayer& layer = args.layers[l];
      const int64_t size = args.B * layer.O;
      T* h = arena.take<T>(size);
      T* z = saves_z(layer.activation) ? arena.take<T>(size) : nullptr;
      layers_.push_back({h, z, arena.take<T>(size)});
    }
    bytes_ = arena.used();
  }

  int64_t bytes() const { return bytes_; }

  void begin() {
    launch("mlp, begin", mlp_begin_kernel, 1, 1, context_, clock_);
    if (args_.lr || args_.layers[0].w.gradient) return;
    for (int64_t g = 0; g < args_.group_count; g += MlpRates::kMost) {
      MlpRates rates;
      for (; rates.count < MlpRates::kMost && g + rates.count < args_.group_count; ++rates.count)
        rates.rate[rates.count] = args_.groups[g + rates.count].lr;
      launch("mlp, learning rates", mlp_rates_kernel, 1, kThreads, context_, rates, rates_ + g);
    }
  }

  void take(int64_t steps) override {
    const int64_t whole = std::min(steps, args_.samples / args_.B - taken_);
    int64_t left = whole;
    if (!graph_refused_ && !graph_ && left >= kLeastStepsForGraph && !is_capturing(context_)) {
      step(args_.B, context_);  // loads the kernels, which is not to be done amid a capture
      --left;
      make_graph();
    }
    for (; graph_ && left >= kStepsInGraph; left -= kStepsInGraph) graph_->launch(context_);
    for (; left > 0; --left) step(args_.B, context_);
    if (whole < steps) step(args_.samples % args_.B, context_);
    taken_ += steps;
  }

  int64_t steps_at_once() const override {
    // About as many as take ten milliseconds, at 10^12 multiplications a second.
    constexpr double kWork = 1e10, kKernel = 2e6;  // a kernel of a graph takes 2 us
    double work = kKernel * static_cast<double>(3 * args_.L + 2);
    for (int64_t l = 0; l < args_.L; ++l)
      work += 3.0 * static_cast<double>(args_.B) * static_cast<double>(args_.layers[l].I) *
              static_cast<double>(args_.layers[l].O);
    const auto steps = static_cast<int64_t>(kWork / work);
    return std::max<int64_t>(steps / kStepsInGraph * kStepsInGraph, 1);
  }

 private:
  // A step has been launched by now, and no error may come after it: where CUDA has no memory for a
  // graph, say, the steps are launched one by one.
  void make_graph() {
    try {
      graph_ = std::make_unique<Graph>(context_, [&](Context capturing) {
        for (int64_t n = 0; n < kStepsInGraph; ++n) step(args_.B, capturing);
      });
    } catch (const std::runtime_error&) {
      graph_refused_ = true;
    }
  }

  struct Layer {
    T* h;   // [B,O] the layer's output
    T* z;   // [B,O] or null
    T* dz;  // [B,O]
    const T* s() const { return z ? z : h; }
  };

  static Matrix rows(const void* data, int64_t columns) { return {data, columns, 1}; }
  Matrix weights(int64_t l) const {
    const MlpParameter& w = args_.layers[l].w;
    return {w.data, w.row_stride, w.col_stride};
  }
  MlpUpdate<T> update(const MlpParameter& parameter) const {
    return {parameter, args_.groups[parameter.group], rates_, clock_};
  }

  // One step on a batch of `count` samples.
  void step(int64_t count, Context context) {
    const int64_t L = args_.L, I = args_.layers[0].I;
    const bool norm_is_a_sum = targets_.norm_is_a_sum();
    launch("mlp, gather", mlp_gather_kernel<T>, gather_blocks(count, I) + norm_is_a_sum, kThreads,
           context, batches_, count, I, x_, targets_, clock_);
    for (int64_t l = 0; l < L; ++l) {
      const MlpLayer& layer = args_.layers[l];
      const MlpForward<T> epilogue{static_cast<const T*>(layer.b.data),
                                   layer.b.row_stride,
                                   layers_[l].h,
                                   layers_[l].z,
                                   layer.O,
                                   layer.activation};
      gemm<T, T, Product::y>("mlp, forward", rows(input(l), layer.I), transposed(weights(l)), count,
                             layer.O, layer.I, epilogue, context);
    }
    loss(count, context);
    for (int64_t l = L - 1; l >= 0; --l) {
      const MlpLayer& layer = args_.layers[l];
      const Matrix dz = rows(layers_[l].dz, layer.O);
      if (l > 0)
        gemm<T, T, Product::dx>("mlp, dx", dz, weights(l), count, layer.I, layer.O,
                                MlpBackward<T>{layers_[l - 1].s(), layers_[l - 1].dz, layer.I,
                                               args_.layers[l - 1].activation},
                                context);
      gemm<T, T, Product::dw>("mlp, dw and update", transposed(dz), rows(input(l), layer.I),
                              layer.O, layer.I, count, MlpWeightUpdate<T>{update(layer.w), layer.I},
                              context);
    }
    end(count, context);
  }
  const T* input(int64_t l) const { return l ? layers_[l - 1].h : x_; }

  int64_t loss_blocks(int64_t count) const { return reduction_blocks(count, kWarp); }

  void loss(int64_t count, Context context) {
    const Layer& last = layers_.back();
    launch(
        "mlp, loss", mlp_loss_kernel<T>, loss_blocks(count), kThreads, context,
        MlpLossStep<T>{batches_, targets_, count, targets_.norm_is_a_sum(), last.h, last.s(),
                       last.dz, args_.layers[args_.L - 1].activation, partials_, clock_,
                       args_.layers[0].w.gradient ? nullptr : args_.lr, rates_, args_.group_count});
  }

  void end(int64_t count, Context context) {
    MlpStepEnd end{partials_,
                   loss_blocks(count),
                   targets_.norm_is_a_sum(),
                   targets_.mean,
                   args_.norms,
                   targets_.mean ? static_cast<double>(count * targets_.C) : 1.0,
                   clock_,
                   nullptr};
    MlpBiases<T> biases;
    for (int64_t l = 0; l < args_.L; ++l) {
      const MlpLayer& layer = args_.layers[l];
      if (layer.b.data) biases.add({layers_[l].dz, layer.O, biases.blocks, update(layer.b)});
      const bool last = l == args_.L - 1;
      if (!last && biases.count < MlpBiases<T>::kMost) continue;
      if (last) end.losses = args_.losses;
      launch("mlp, db and end", mlp_end_kernel<T>, biases.blocks + last, kSumThreads, context,
             biases, count, end);
      biases = {};
    }
  }

  const MlpArgs& args_;
  const Context context_;
  const MlpBatches<T> batches_;
  const MlpTargets<T> targets_;
  MlpClock* clock_;
  double *rates_, *partials_;
  T* x_;  // [B,I]
  std::vector<Layer> layers_;
  int64_t bytes_;
  int64_t taken_ = 0;
  std::unique_ptr<Graph> graph_;
  bool graph_refused_ = false;
};

}  // namespace

int64_t mlp_layers_scratch(const MlpArgs& args) {
  int64_t bytes = 0;
  for_dtype(args.dtype,
            [&](auto tag) { bytes = MlpLayersRun<decltype(tag)>(args, nullptr, {}).bytes(); });
  return bytes;
}

std::unique_ptr<MlpRun> mlp_layers(const MlpArgs& args, void* scratch, Context context) {
  std::unique_ptr<MlpRun> result;
  for_dtype(args.dtype, [&](auto tag) {
    auto run = std::make_unique<MlpLayersRun<decltype(tag)>>(args, scratch, context);
    run->begin();
    result = std::move(run);
  });
  return result;
}

}  // namespace gdext::cuda
