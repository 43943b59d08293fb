// contract/mse.h for tensors.
#include "contract/mse.h"

#include "torch/device.h"
#include "torch/ops.h"

namespace gdext {

namespace {
// x, target and weight of one shape, dtype and device, made contiguous.
struct MseTensors {
  Tensor x, target;
  OptionalTensor weight;
  DType dtype;

  MseTensors(const Tensor& x_, const Tensor& target_, const OptionalTensor& weight_)
      : x(x_), target(target_), weight(weight_), dtype(check_floating(x_, "input")) {
    check_like(target, "target", x, "input");
    check_shape(target, "target", x.sizes(), "that of input");
    if (weight) {
      check_like(*weight, "weight", x, "input");
      check_shape(*weight, "weight", x.sizes(), "that of input");
      weight = as_contiguous(*weight);
    }
    x = as_contiguous(x);
    target = as_contiguous(target);
  }
};

struct OutputGradient {
  Tensor dy;
  int64_t stride;

  OutputGradient(const Tensor& dy_, const MseTensors& in)
      : dy(dy_), stride(dy_.dim() == 0 ? 0 : 1) {
    check_like(dy, "dy", in.x, "input");
    if (stride) check_shape(dy, "dy", in.x.sizes(), "that of input");
    dy = as_contiguous(dy);
  }
};

void check_norm(const Tensor& norm) { check_shape(norm, "norm", {}, "one number"); }
}  // namespace

std::tuple<Tensor, Tensor> mse(Tensor x, Tensor target, OptionalTensor weight, int64_t reduction) {
  const MseTensors in(x, target, weight);
  const Reduction reduce = check_reduction(reduction);
  Tensor loss = reduce == Reduction::none ? empty(in.x.sizes(), in.x) : empty({}, in.x);
  Tensor norm = empty({}, accumulation_dtype(in.x), in.x);
  Workspace sums(in.x);
  const MseArgs args{in.dtype,
                     reduce,
                     in.x.numel(),
                     data(in.x),
                     data(in.target),
                     data(in.weight),
                     loss.mutable_data_ptr(),
                     norm.mutable_data_ptr(),
                     sums.data()};
  GDEXT_RUN(in.x, mse, args);
  return {loss, norm};
}

Tensor mse_backward(Tensor dy, Tensor x, Tensor target, OptionalTensor weight, Tensor norm) {
  const MseTensors in(x, target, weight);
  const OutputGradient out(dy, in);
  check_norm(norm);
  Tensor dx = empty(in.x.sizes(), in.x);
  const MseBackwardArgs args{in.dtype,        in.x.numel(), data(out.dy),
                             out.stride,      data(in.x),   data(in.target),
                             data(in.weight), data(norm),   dx.mutable_data_ptr()};
  GDEXT_RUN(in.x, mse_backward, args);
  return dx;
}

std::tuple<Tensor, Tensor> mse_double_backward(Tensor u, Tensor dy, Tensor x, Tensor target,
                                               OptionalTensor weight, Tensor norm,
                                               int64_t reduction) {
  const MseTensors in(x, target, weight);
  const OutputGradient out(dy, in);
  check_norm(norm);
  check_like(u, "u", in.x, "input");
  check_shape(u, "u", in.x.sizes(), "that of input");
  u = as_contiguous(u);
  const Reduction reduce = check_reduction(reduction);
  Tensor gdy = reduce == Reduction::none ? empty(in.x.sizes(), in.x) : empty({}, in.x);
  Tensor gx = empty(in.x.sizes(), in.x);
  Workspace sums(in.x);
  const MseDoubleBackwardArgs args{in.dtype,
                                   reduce,
                                   in.x.numel(),
                                   data(u),
                                   data(out.dy),
                                   out.stride,
                                   data(in.x),
                                   data(in.target),
                                   data(in.weight),
                                   data(norm),
                                   gdy.mutable_data_ptr(),
                                   gx.mutable_data_ptr(),
                                   sums.data()};
  GDEXT_RUN(in.x, mse_double_backward, args);
  return {gdy, gx};
}

}  // namespace gdext
