// contract/mlp.h for tensors.
#include <algorithm>
#include <cmath>

#include "torch/device.h"
#include "torch/mlp_network.h"
#include "torch/ops.h"

namespace gdext {

namespace {

// With `done` steps done, a call looks at no more samples than these (but for the first one, which
// checks them all): a run of any length comes back in time and checks each sample twice at most.
constexpr int64_t kSamplesPerCall = 1 << 20;

// `t` has this dtype and, as all that a step works on, the device of the parameters.
void check_kind(const Tensor& t, const char* name, ScalarType dtype, const Tensor& param) {
  check_device(t, name, param, "the parameters");
  GDEXT_CHECK(t.scalar_type() == dtype, name, ": wanted dtype ", show_dtype(dtype), ", got ",
              show_dtype(t.scalar_type()));
}

// Inputs as rows; a copy takes their place where a row is not contiguous.
void set_inputs(MlpArgs& args, Tensor& inputs, const Tensor& param) {
  check_device(inputs, "inputs", param, "the parameters");
  args.input_bytes = inputs.scalar_type() == ScalarType::Byte;
  if (!args.input_bytes) check_like(inputs, "inputs", param, "the parameters; or uint8");
  const int64_t I = args.layers[0].I;
  GDEXT_CHECK(inputs.dim() == 2 && inputs.size(1) == I, "inputs: wanted shape [N, ", I,
              "] (in_features of the first layer), got ", show(inputs.sizes()));
  if (inputs.stride(1) != 1 && I > 1) inputs = torch::stable::contiguous(inputs);
  args.inputs = data(inputs);
  args.input_row_stride = inputs.stride(0);
}

void set_targets(MlpArgs& args, Tensor& targets, const Tensor& param, int64_t N) {
  if (args.loss == MlpLoss::mse) {
    check_like(targets, "targets", param, "the parameters");
    check_shape(targets, "targets", {N, args.layers[args.L - 1].O}, "one row for each input");
  } else {
    check_kind(targets, "targets", ScalarType::Long, param);
    check_shape(targets, "targets", {N}, "one class index for each input");
  }
  targets = as_contiguous(targets);
  args.targets = data(targets);
}

void set_loss(MlpArgs& args, OptionalTensor& class_weight, const Tensor& param) {
  GDEXT_CHECK_VALUE(args.loss == MlpLoss::cross_entropy || args.loss == MlpLoss::mse,
                    "loss: wanted 0 (cross entropy) or 1 (mse), got ", static_cast<int>(args.loss));
  GDEXT_CHECK_VALUE(args.reduction != Reduction::none,
                    "reduction: wanted 1 (mean) or 2 (sum), got 0");
  // A NaN must fail too, hence the form.
  GDEXT_CHECK_VALUE(args.label_smoothing >= 0 && args.label_smoothing <= 1,
                    "label_smoothing: wanted a number from 0 to 1, got ", args.label_smoothing);
  if (!class_weight) return;
  check_like(*class_weight, "weight of the loss", param, "the parameters");
  check_shape(*class_weight, "weight of the loss", {args.layers[args.L - 1].O},
              "one for each output of the last layer");
  class_weight = as_contiguous(*class_weight);
  args.class_weight = data(*class_weight);
}

[[noreturn]] void refuse(const MlpArgs& args, int64_t N, const MlpFault& fault) {
  if (fault.of_order) {
    throw std::out_of_range(message("order: wanted samples from 0 to ", N - 1, ", got ",
                                    fault.sample, " at position ", fault.position));
  }
  throw std::out_of_range(message(
      "targets: wanted a class from 0 to ", args.layers[args.L - 1].O - 1, " or ignore_index ",
      args.ignore_index, ", got ", fault.target, " at position ", fault.sample));
}

// Samples [begin, end) of the order are among the N inputs, and their classes among the C outputs.
void check_samples(const MlpArgs& args, int64_t begin, int64_t end, int64_t N) {
  const int64_t C = args.layers[args.L - 1].O;
  const auto* classes =
      args.loss == MlpLoss::cross_entropy ? static_cast<const int64_t*>(args.targets) : nullptr;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t n = args.order ? args.order[i] : i;
    if (n < 0 || n >= N) refuse(args, N, {i, n, 0, true});
    if (!classes) continue;
    const int64_t t = classes[n];
    if ((t < 0 || t >= C) && t != args.ignore_index) refuse(args, N, {i, n, t, false});
  }
}

// The kernels of the parameters' device.
#if GDEXT_CUDA
MlpSizes sizes_of(const MlpArgs& args, const Tensor& param) {
  if (!runs_on_cuda(param)) return cpu::mlp_sizes(args);
  return with_cuda(param, [&](Context) { return cuda::mlp_sizes(args); });
}
int64_t run_steps(const MlpArgs& args, const Tensor& param) {
  if (!runs_on_cuda(param)) return cpu::mlp(args, {});
  return with_cuda(param, [&](Context context) { return cuda::mlp(args, context); });
}
void check_samples_on_cuda(const MlpArgs& args, int64_t N, const Tensor& param) {
  const Tensor memory = empty({cuda::kMlpCheckBytes}, ScalarType::Byte, param);
  const MlpFault fault = with_cuda(param, [&](Context context) {
    return cuda::mlp_check(args, N, memory.mutable_data_ptr(), context);
  });
  if (fault.position < args.samples) refuse(args, N, fault);
}
#else
MlpSizes sizes_of(const MlpArgs& args, const Tensor&) { return cpu::mlp_sizes(args); }
int64_t run_steps(const MlpArgs& args, const Tensor&) { return cpu::mlp(args, {}); }
void check_samples_on_cuda(const MlpArgs&, int64_t, const Tensor&) {}
#endif

// The places of the parameters' gradients in the one buffer of all.
void set_gradients(std::vector<MlpLayer>& layers, const Tensor& gradient, DType dtype,
                   const Tensor& param) {
  const bool wide = dtype == DType::f64;
  check_kind(gradient, "gradient", wide ? ScalarType::Double : ScalarType::Float, param);
  int64_t count = 0;
  for (const MlpLayer& layer : layers) count += layer.O * (layer.I + (layer.b.data ? 1 : 0));
  check_shape(gradient, "gradient", {count}, "one element for each of the parameters'");
  GDEXT_CHECK(gradient.is_contiguous(), "gradient: wanted a contiguous tensor");
  auto* place = static_cast<char*>(gradient.mutable_data_ptr());
  const int64_t size = static_cast<int64_t>(gradient.element_size());
  for (MlpLayer& layer : layers) {
    layer.w.gradient = place;
    place += layer.O * layer.I * size;
    if (!layer.b.data) continue;
    layer.b.gradient = place;
    place += layer.O * size;
  }
}

int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

int64_t mlp_(const TensorList& params, const TensorList& momentum_buffers,
             const std::vector<bool>& first, const std::vector<bool>& biases,
             const std::vector<int64_t>& activations, const std::vector<int64_t>& groups,
             const std::vector<double>& options, Tensor inputs, Tensor targets,
             const OptionalTensor& order, int64_t batch_size, const OptionalTensor& lr,
             double input_scale, double input_shift, int64_t loss, int64_t reduction,
             OptionalTensor class_weight, int64_t ignore_index, double label_smoothing,
             Tensor workspace, Tensor losses, Tensor done, double seconds,
             const OptionalTensor& gradient, const OptionalTensor& norms) {
  MlpNetwork network(params, momentum_buffers, first, biases, activations, groups, options);
  MlpArgs args{};
  args.dtype = network.dtype;
  args.layers = network.layers.data();
  args.L = static_cast<int64_t>(network.layers.size());
  args.groups = network.groups.data();
  args.group_count = static_cast<int64_t>(network.groups.size());
  args.loss = static_cast<MlpLoss>(loss);
  args.reduction = check_reduction(reduction);
  args.ignore_index = ignore_index;
  args.label_smoothing = label_smoothing;
  const Tensor param = params.tensor(0);
  check_built_for(param);
  set_loss(args, class_weight, param);
  set_inputs(args, inputs, param);
  args.input_scale = input_scale;
  args.input_shift = input_shift;
  const int64_t N = inputs.size(0);
  set_targets(args, targets, param, N);

  args.samples = N;
  if (order) {
    check_kind(*order, "order", ScalarType::Long, param);
    GDEXT_CHECK(order->dim() == 1 && order->is_contiguous(),
                "order: wanted a contiguous tensor of shape [samples], got shape ",
                show(order->sizes()));
    args.samples = order->size(0);
    args.order = static_cast<const int64_t*>(data(*order));
  }
  GDEXT_CHECK_VALUE(args.samples > 0, "order: wanted at least one sample, got none");
  GDEXT_CHECK_VALUE(batch_size >= 1 && batch_size <= N, "batch_size: wanted a number from 1 to ", N,
                    " (the number of inputs), got ", batch_size);
  args.B = batch_size;
  const int64_t steps = (args.samples + args.B - 1) / args.B;

  if (gradient) set_gradients(network.layers, *gradient, args.dtype, param);
  if (norms) {
    check_kind(*norms, "norms", ScalarType::Double, param);
    check_shape(*norms, "norms", {steps}, "steps");
    GDEXT_CHECK(norms->is_contiguous(), "norms: wanted a contiguous tensor");
    args.norms = static_cast<const double*>(data(*norms));
  }
  if (lr) {
    check_kind(*lr, "lr", ScalarType::Double, param);
    check_shape(*lr, "lr", {steps, args.group_count}, "steps, groups");
    GDEXT_CHECK(lr->is_contiguous(), "lr: wanted a contiguous tensor");
  }
  check_kind(losses, "losses", ScalarType::Double, param);
  GDEXT_CHECK(done.is_cpu() && done.scalar_type() == ScalarType::Long,
              "done: wanted an int64 tensor on cpu, got ", show_dtype(done.scalar_type()), " on ",
              show_device(done));
  check_kind(workspace, "workspace", ScalarType::Byte, param);
  GDEXT_CHECK(losses.numel() == steps && done.numel() == 1, "losses, done: wanted ", steps,
              " and 1 elements, got ", losses.numel(), " and ", done.numel());
  GDEXT_CHECK(losses.is_contiguous() && workspace.is_contiguous(),
              "losses, workspace: wanted contiguous tensors");

  args.threads = static_cast<int>(torch::stable::get_num_threads());
  auto* progress = static_cast<int64_t*>(done.mutable_data_ptr());
  const int64_t past = *progress;
  GDEXT_CHECK_VALUE(past >= 0 && past < steps, "done: wanted a number from 0 to ", steps - 1,
                    ", got ", past);
  const int64_t begin = past * args.B;
  const int64_t room = gradient ? args.B : std::max<int64_t>(kSamplesPerCall / args.B, 1) * args.B;
  const int64_t end = std::min(args.samples, begin + room);
  const MlpSizes sizes = sizes_of(args, param);
  // At least a byte, so that a call with an empty workspace always but asks.
  const int64_t wanted = std::max<int64_t>(aligned(sizes.packed) + sizes.scratch, 1);
  const bool asks = workspace.numel() < wanted;
  // The samples are looked at once, but for gradients: processes that share a batch check all there
  // is to check before any of them has a workspace.
  if (asks && !gradient) return wanted;
  if (!runs_on_cuda(param)) {
    check_samples(args, begin, past == 0 ? args.samples : end, N);
  } else if (past == 0) {
    check_samples_on_cuda(args, N, param);
  }
  if (asks) return wanted;
  auto* memory = static_cast<char*>(workspace.mutable_data_ptr());
  GDEXT_CHECK(reinterpret_cast<uintptr_t>(memory) % 64 == 0,
              "workspace: wanted memory aligned to 64 bytes");
  args.packed = memory;
  args.scratch = memory + aligned(sizes.packed);

  args.samples = end - begin;
  if (args.norms) args.norms += past;
  std::vector<double> rates;
  if (lr) {
    args.lr = static_cast<const double*>(data(*lr)) + past * args.group_count;
  } else if (!runs_on_cuda(param)) {
    for (int64_t s = 0; s * args.B < args.samples; ++s) {
      for (const MlpGroup& group : network.groups) rates.push_back(group.lr);
    }
    args.lr = rates.data();
  }
  args.losses = static_cast<double*>(losses.mutable_data_ptr()) + past;
  if (args.order) {
    args.order += begin;
  } else {
    const int64_t input =
        begin * args.input_row_stride * static_cast<int64_t>(inputs.element_size());
    const int64_t target = begin * static_cast<int64_t>(targets.element_size()) *
                           (args.loss == MlpLoss::mse ? args.layers[args.L - 1].O : 1);
    args.inputs = static_cast<const char*>(args.inputs) + input;
    args.targets = static_cast<const char*>(args.targets) + target;
  }
  if (past > 0) {
    for (MlpLayer& layer : network.layers) layer.w.first = layer.b.first = false;
  }
  args.seconds = seconds;
  *progress = past + run_steps(args, param);
  return wanted;
}

}  // namespace gdext
