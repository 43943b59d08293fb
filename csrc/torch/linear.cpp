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

std::tuple<Tensor, Tensor, Tensor> linear_backward(Tensor dy, OptionalTensor saved,
                                                   OptionalTensor x, OptionalTensor weight,
                                                   int64_t activation, std::vector<bool> wanted) {
  GDEXT_CHECK_VALUE(wanted.size() == 3, "wanted: wanted 3 flags (dx, dw, db), got ", wanted.size());
  const DType dtype = check_floating(dy, "dy");
  const Activation f = check_activation(activation);
  GDEXT_CHECK(dy.dim() >= 1, "dy: wanted at least 1 dimension, [*, out_features], got a ",
              "0-dimensional tensor");
  const int64_t B = leading(dy), O = dy.size(dy.dim() - 1);
  LinearBackwardArgs args{};
  args.dtype = dtype;
  args.activation = f;
  args.B = B;
  args.O = O;
  args.dy = as_matrix(dy);

  GDEXT_CHECK((f == Activation::identity) == !saved,
              "saved: wanted the forward's y or z for every activation but identity");
  OptionalTensor dz, dx, dw, db;
  if (saved) {
    check_like(*saved, "saved", dy, "dy");
    check_shape(*saved, "saved", dy.sizes(), "that of dy");
    args.s = as_matrix(*saved);
    dz = runs_on_cuda(dy) ? empty(dy.sizes(), dy) : empty(dy.sizes(), accumulation_dtype(dy), dy);
    args.dz = dz->mutable_data_ptr();
  }
  if (wanted[0]) {
    GDEXT_CHECK(weight && weight->dim() == 2, "weight: wanted shape [out_features, in_features] ",
                "for dx");
    check_like(*weight, "weight", dy, "dy");
    args.I = weight->size(1);
    check_shape(*weight, "weight", {O, args.I}, "out_features of dy");
    args.w = as_matrix(*weight);
    dx = empty(with_last(dy, args.I), dy);
    args.dx = dx->mutable_data_ptr();
  }
  if (wanted[1]) {
    GDEXT_CHECK(x && x->dim() >= 1, "input: wanted shape [*, in_features] for dw");
    check_like(*x, "input", dy, "dy");
    const int64_t I = x->size(x->dim() - 1);
    check_shape(*x, "input", with_last(dy, wanted[0] ? args.I : I), "as dy but for in_features");
    args.I = I;
    args.x = as_matrix(*x);
    dw = empty({O, I}, dy);
    args.dw = dw->mutable_data_ptr();
  }
  if (wanted[2]) {
    db = empty({O}, dy);
    args.db = db->mutable_data_ptr();
  }
  GDEXT_RUN(dy, linear_backward, args);
  const auto or_nothing = [&](const OptionalTensor& t) { return t ? *t : nothing(dy); };
  return {or_nothing(dx), or_nothing(dw), or_nothing(db)};
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
