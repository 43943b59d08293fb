// contract/cross_entropy.h for tensors.
#include "contract/cross_entropy.h"

#include <cmath>

#include "torch/device.h"
#include "torch/ops.h"

namespace gdext {

namespace {
// Logits [C], [N,C] or [N,C,d1,...] with their target, checked and made contiguous.
struct CrossEntropyTensors {
  Tensor x, target_tensor;
  OptionalTensor weight;
  DType dtype;
  int64_t N = 1, C = 1, D = 1;
  std::vector<int64_t> sample_shape;  // x's shape without C
  CrossEntropyTarget target{};
  bool probabilities;  // what target_tensor holds; its data pointer is null where it is empty

  CrossEntropyTensors(const Tensor& x_, const Tensor& target_, const OptionalTensor& weight_,
                      int64_t ignore_index, double label_smoothing)
      : x(x_),
        target_tensor(target_),
        weight(weight_),
        dtype(check_floating(x_, "input")),
        probabilities(target_.scalar_type() != ScalarType::Long) {
    GDEXT_CHECK(x.dim() >= 1,
                "input: wanted logits of shape [C], [N, C] or [N, C, d1, ...], got a "
                "0-dimensional tensor");
    // A NaN must fail too, hence the form.
    GDEXT_CHECK(label_smoothing >= 0 && label_smoothing <= 1,
                "label_smoothing must be between 0.0 and 1.0. Got: ", label_smoothing);
    const int64_t class_dim = x.dim() == 1 ? 0 : 1;
    for (int64_t i = 0; i < x.dim(); ++i) {
      const int64_t size = x.size(i);
      (i < class_dim ? N : i == class_dim ? C : D) *= size;
      if (i != class_dim) sample_shape.push_back(size);
    }
    if (weight) {
      check_like(*weight, "weight", x, "input");
      check_shape(*weight, "weight", {C}, "one for each class of input");
      weight = as_contiguous(*weight);
    }
    if (!probabilities) {
      GDEXT_CHECK(target_tensor.is_cpu() == x.is_cpu() &&
                      target_tensor.get_device_index() == x.get_device_index(),
                  "target: wanted device ", show_device(x), " (that of input), got ",
                  show_device(target_tensor));
      check_shape(target_tensor, "target", sample_shape,
                  "class indices: input's without its class dimension");
    } else {
      check_like(target_tensor, "target", x, "input; class indices are int64");
      check_shape(target_tensor, "target", x.sizes(), "class probabilities: that of input");
    }
    x = as_contiguous(x);
    target_tensor = as_contiguous(target_tensor);
    target.index = probabilities ? nullptr : static_cast<const int64_t*>(data(target_tensor));
    target.prob = probabilities ? data(target_tensor) : nullptr;
    target.w = data(weight);
    target.ignore_index = ignore_index;
    target.label_smoothing = label_smoothing;
  }

  Tensor loss_like(Reduction reduction) const {
    return reduction == Reduction::none ? empty(sample_shape, x) : empty({}, x);
  }
  void check_stats(const Tensor& stats, const Tensor& norm) const {
    std::vector<int64_t> wanted = {2};
    wanted.insert(wanted.end(), sample_shape.begin(), sample_shape.end());
    check_shape(stats, "stats", wanted, "what the forward returned");
    check_shape(norm, "norm", {}, "one number");
  }
};

struct OutputGradient {
  Tensor dy;
  int64_t stride;

  OutputGradient(const Tensor& dy_, const CrossEntropyTensors& in, int64_t dims)
      : dy(dy_), stride(0) {
    check_like(dy, "dy", in.x, "input");
    if (dims > 0 && dy.dim() > 0) {
      check_shape(dy, "dy", in.sample_shape, "that of the loss");
      stride = 1;
    }
    dy = as_contiguous(dy);
  }
};
}  // namespace

std::tuple<Tensor, Tensor, Tensor> cross_entropy(Tensor x, Tensor target, OptionalTensor weight,
                                                 int64_t reduction, int64_t ignore_index,
                                                 double label_smoothing) {
  const CrossEntropyTensors in(x, target, weight, ignore_index, label_smoothing);
  const Reduction reduce = check_reduction(reduction);
  std::vector<int64_t> stats_shape = {2};
  stats_shape.insert(stats_shape.end(), in.sample_shape.begin(), in.sample_shape.end());
  Tensor loss = in.loss_like(reduce);
  Tensor stats = empty(stats_shape, accumulation_dtype(in.x), in.x);
  Tensor norm = empty({}, accumulation_dtype(in.x), in.x);
  Workspace sums(in.x);
  const CrossEntropyArgs args{in.dtype,
                              reduce,
                              in.N,
                              in.C,
                              in.D,
                              data(in.x),
                              in.target,
                              loss.mutable_data_ptr(),
                              stats.mutable_data_ptr(),
                              norm.mutable_data_ptr(),
                              sums.data()};
  GDEXT_RUN(in.x, cross_entropy, args);
  return {loss, stats, norm};
}

std::tuple<Tensor, Tensor> cross_entropy_backward(Tensor dy, Tensor x, Tensor target,
                                                  OptionalTensor weight, Tensor stats, Tensor norm,
                                                  int64_t ignore_index, double label_smoothing,
                                                  std::vector<bool> wanted) {
  const CrossEntropyTensors in(x, target, weight, ignore_index, label_smoothing);
  in.check_stats(stats, norm);
  GDEXT_CHECK_VALUE(wanted.size() == 2, "wanted: wanted 2 flags (dx, dt), got ", wanted.size());
  GDEXT_CHECK(!wanted[1] || in.probabilities, "target: class indices have no gradient");
  const OutputGradient out(dy, in, static_cast<int64_t>(in.sample_shape.size()));
  stats = as_contiguous(stats);
  Tensor dx = wanted[0] ? empty(in.x.sizes(), in.x) : nothing(in.x);
  Tensor dt = wanted[1] ? empty(in.x.sizes(), in.x) : nothing(in.x);
  const CrossEntropyBackwardArgs args{in.dtype,
                                      in.N,
                                      in.C,
                                      in.D,
                                      data(out.dy),
                                      out.stride,
                                      data(in.x),
                                      in.target,
                                      data(stats),
                                      data(norm),
                                      wanted[0] ? dx.mutable_data_ptr() : nullptr,
                                      wanted[1] ? dt.mutable_data_ptr() : nullptr};
  GDEXT_RUN(in.x, cross_entropy_backward, args);
  return {dx, dt};
}

std::tuple<Tensor, Tensor, Tensor> cross_entropy_double_backward(
    OptionalTensor u, OptionalTensor v, Tensor dy, Tensor x, Tensor target, OptionalTensor weight,
    Tensor stats, Tensor norm, int64_t reduction, int64_t ignore_index, double label_smoothing,
    bool want_gt) {
  const CrossEntropyTensors in(x, target, weight, ignore_index, label_smoothing);
  const Reduction reduce = check_reduction(reduction);
  in.check_stats(stats, norm);
  GDEXT_CHECK(in.probabilities || (!v && !want_gt), "target: class indices have no gradient");
  const OutputGradient out(dy, in, static_cast<int64_t>(in.sample_shape.size()));
  const auto prepare = [&](OptionalTensor& t, const char* name) {
    if (!t) return;
    check_like(*t, name, in.x, "input");
    check_shape(*t, name, in.x.sizes(), "that of input");
    t = as_contiguous(*t);
  };
  prepare(u, "u");
  prepare(v, "v");
  stats = as_contiguous(stats);
  Tensor gdy = in.loss_like(reduce), gx = empty(in.x.sizes(), in.x);
  Tensor gt = want_gt ? empty(in.x.sizes(), in.x) : nothing(in.x);
  Workspace sums(in.x);
  const CrossEntropyDoubleBackwardArgs args{in.dtype,
                                            reduce,
                                            in.N,
                                            in.C,
                                            in.D,
                                            data(u),
                                            data(v),
                                            data(out.dy),
                                            out.stride,
                                            data(in.x),
                                            in.target,
                                            data(stats),
                                            data(norm),
                                            gdy.mutable_data_ptr(),
                                            gx.mutable_data_ptr(),
                                            want_gt ? gt.mutable_data_ptr() : nullptr,
                                            sums.data()};
  GDEXT_RUN(in.x, cross_entropy_double_backward, args);
  return {gdy, gx, gt};
}

}  // namespace gdext
