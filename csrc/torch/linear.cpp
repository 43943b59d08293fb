// contract/linear.h for tensors.
#include "contract/linear.h"

#include "torch/device.h"
#include "torch/ops.h"

namespace gdext {

namespace {
// x [*, I] and weight [O, I], of one dtype and device.
DType check_linear(const Tensor& x, const Tensor& weight) {
  const DType dtype = check_floating(x, "input");
  check_like(weight, "weight", x, "input");
  GDEXT_CHECK(weight.dim() == 2, "weight: wanted shape [out_features, in_features], got ",
              show(weight.sizes()));
  GDEXT_CHECK(x.dim() >= 1,
              "input: wanted at least 1 dimension, [*, in_features], got a 0-dimensional tensor");
  const int64_t I = weight.size(1);
  GDEXT_CHECK(x.size(x.dim() - 1) == I, "input: wanted last dimension ", I,
              " (in_features of weight ", show(weight.sizes()), "), got shape ", show(x.sizes()));
  return dtype;
}

// x's leading dimensions, then `last`.
std::vector<int64_t> with_last(const Tensor& x, int64_t last) {
  const Sizes sizes = x.sizes();
  std::vector<int64_t> result(sizes.begin(), sizes.end());
  result.back() = last;
  return result;
}
}  // namespace

std::tuple<Tensor, Tensor> linear(Tensor x, Tensor weight, OptionalTensor bias, int64_t activation,
                                  bool want_z) {
  const DType dtype = check_linear(x, weight);
  const Activation f = check_activation(activation);
  const int64_t O = weight.size(0), I = weight.size(1);
  if (bias) {
    check_like(*bias, "bias", x, "input");
    check_shape(*bias, "bias", {O}, "out_features of weight");
    bias = as_contiguous(*bias);
  }
  const std::vector<int64_t> shape = with_last(x, O);
  Tensor y = empty(shape, x);
  const bool save = want_z && saves_z(f);
  Tensor z = save ? empty(shape, x) : nothing(x);
  const LinearArgs args{dtype,
                        f,
                        leading(x),
                        I,
                        O,
                        as_matrix(x),
                        as_matrix(weight),
                        data(bias),
                        y.mutable_data_ptr(),
                        save ? z.mutable_data_ptr() : nullptr};
  GDEXT_RUN(x, linear, args);
  return {y, z};
}

std::tuple<Tensor, Tensor, Tensor> linear_backward(Tensor dy, OptionalTensor saved, Tensor x,
                                                   Tensor weight, int64_t activation,
                                                   std::vector<bool> wanted) {
  const DType dtype = check_linear(x, weight);
  const Activation f = check_activation(activation);
  const int64_t O = weight.size(0), I = weight.size(1);
  const std::vector<int64_t> shape = with_last(x, O);
  check_like(dy, "dy", x, "input");
  check_shape(dy, "dy", shape, "that of the output");
  GDEXT_CHECK_VALUE(wanted.size() == 3, "wanted: wanted 3 flags (dx, dw, db), got ", wanted.size());
  GDEXT_CHECK((f == Activation::identity) == !saved,
              "saved: wanted the forward's y or z for every activation but identity");
  Matrix s;
  Tensor dz = nothing(x);
  if (saved) {
    check_like(*saved, "saved", x, "input");
    check_shape(*saved, "saved", shape, "that of the output");
    s = as_matrix(*saved);
    dz = empty(shape, accumulation_dtype(x), x);
  }
  Tensor dx = wanted[0] ? empty(x.sizes(), x) : nothing(x);
  Tensor dw = wanted[1] ? empty(weight.sizes(), x) : nothing(x);
  Tensor db = wanted[2] ? empty({O}, x) : nothing(x);
  const auto out = [](bool given, const Tensor& t) {
    return given ? t.mutable_data_ptr() : nullptr;
  };
  const LinearBackwardArgs args{dtype,
                                f,
                                leading(x),
                                I,
                                O,
                                as_matrix(dy),
                                s,
                                as_matrix(x),
                                as_matrix(weight),
                                out(saved.has_value(), dz),
                                out(wanted[0], dx),
                                out(wanted[1], dw),
                                out(wanted[2], db)};
  GDEXT_RUN(x, linear_backward, args);
  return {dx, dw, db};
}

std::tuple<Tensor, Tensor, Tensor> activation_double_backward(Tensor q, Tensor dy, Tensor saved,
                                                              int64_t activation) {
  const DType dtype = check_floating(q, "q");
  check_like(dy, "dy", q, "q");
  check_like(saved, "saved", q, "q");
  check_shape(dy, "dy", q.sizes(), "that of q");
  check_shape(saved, "saved", q.sizes(), "that of q");
  q = as_contiguous(q);
  dy = as_contiguous(dy);
  saved = as_contiguous(saved);
  Tensor gdy = empty(q.sizes(), q), gz = empty(q.sizes(), q), dz = empty(q.sizes(), q);
  const ActivationDoubleBackwardArgs args{dtype,
                                          check_activation(activation),
                                          q.numel(),
                                          data(q),
                                          data(dy),
                                          data(saved),
                                          gdy.mutable_data_ptr(),
                                          gz.mutable_data_ptr(),
                                          dz.mutable_data_ptr()};
  GDEXT_RUN(q, activation_double_backward, args);
  return {gdy, gz, dz};
}

}  // namespace gdext
