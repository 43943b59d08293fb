// contract/path_sum.h for tensors.
#include "contract/path_sum.h"

#include <cmath>

#include "torch/ops.h"

namespace gdext {

namespace {

// A contiguous float64 tensor on the CPU, of the wanted shape.
void check_matrix(const Tensor& t, const std::string& name, Sizes wanted, const char* why) {
  check_floating(t, name.c_str());
  GDEXT_CHECK(t.is_cpu() && t.scalar_type() == ScalarType::Double, name,
              ": wanted float64 on cpu, all that path_sum has a kernel for, got ",
              show_dtype(t.scalar_type()), " on ", show_device(t));
  check_shape(t, name.c_str(), wanted, why);
  GDEXT_CHECK(t.is_contiguous(), name, ": wanted a contiguous tensor");
}

int64_t* check_counts(const Tensor& counts) {
  GDEXT_CHECK(counts.is_cpu() && counts.scalar_type() == ScalarType::Long, "counts: wanted int64 ",
              "on cpu, got ", show_dtype(counts.scalar_type()), " on ", show_device(counts));
  check_shape(counts, "counts", {2}, "paths walked, multiplications");
  GDEXT_CHECK(counts.is_contiguous(), "counts: wanted a contiguous tensor");
  return static_cast<int64_t*>(counts.mutable_data_ptr());
}

// The number of all multiplications, and so that of all paths, fits into int64.
void check_countable(const PathSumArgs& args) {
  constexpr double kMost = 9e18;
  double count = 0, paths = 1;
  for (int64_t l = args.L - 1; l >= 0; --l) {
    paths *= static_cast<double>(args.layers[l].O);
    count += paths * static_cast<double>(args.layers[l].I + 1);
  }
  count *= 2.0 * static_cast<double>(args.L) * static_cast<double>(args.B);
  GDEXT_CHECK_VALUE(count < kMost, "path_sum: wanted fewer than ", kMost,
                    " multiplications, got about ", count);
}

}  // namespace

void path_sum_(const TensorList& weights, const TensorList& inputs, const TensorList& slopes,
               Tensor dy, const TensorList& dw, const TensorList& db, Tensor counts,
               double seconds) {
  const size_t L = weights.size();
  GDEXT_CHECK_VALUE(L > 0, "weights: wanted one for each layer, got none");
  check_length("inputs", inputs.size(), L, "one for each layer");
  check_length("slopes", slopes.size(), L, "one for each layer");
  check_length("dw", dw.size(), L, "one for each layer");
  check_length("db", db.size(), L, "one for each layer");
  GDEXT_CHECK(dy.dim() == 2 && dy.size(0) > 0, "dy: wanted shape [B, O], B at least 1, got ",
              show(dy.sizes()));
  PathSumArgs args{};
  args.L = static_cast<int64_t>(L);
  args.B = dy.size(0);

  std::vector<PathSumLayer> layers;
  for (size_t l = 0; l < L; ++l) {
    const Tensor w = weights.tensor(l), a = inputs.tensor(l), s = slopes.tensor(l);
    GDEXT_CHECK(w.dim() == 2 && w.numel() > 0, at("weights", l),
                ": wanted shape [out_features, in_features], no size of 0, got ", show(w.sizes()));
    const int64_t O = w.size(0), I = l ? layers.back().O : w.size(1);
    check_matrix(w, at("weights", l), {O, I}, "in_features: out_features of the layer below");
    check_matrix(a, at("inputs", l), {args.B, I}, "the layer's input");
    const Tensor gw = dw.tensor(l), gb = db.tensor(l);
    check_matrix(gw, at("dw", l), {O, I}, "that of the weight");
    PathSumLayer layer{I,
                       O,
                       static_cast<const double*>(data(w)),
                       static_cast<const double*>(data(a)),
                       nullptr,
                       static_cast<double*>(gw.mutable_data_ptr()),
                       nullptr};
    if (s.numel() > 0) {
      check_matrix(s, at("slopes", l), {args.B, O}, "f'(z); or no elements for f' = 1");
      layer.s = static_cast<const double*>(data(s));
    }
    if (gb.numel() > 0) {
      check_matrix(gb, at("db", l), {O}, "out_features; or no elements without a bias");
      layer.db = static_cast<double*>(gb.mutable_data_ptr());
    }
    layers.push_back(layer);
  }
  check_matrix(dy, "dy", {args.B, layers.back().O}, "the last layer's output");
  args.layers = layers.data();
  args.dy = static_cast<const double*>(data(dy));
  args.walked = check_counts(counts);
  args.multiplications = args.walked + 1;
  GDEXT_CHECK_VALUE(*args.walked >= 0, "counts: wanted paths walked >= 0, got ", *args.walked);
  check_countable(args);
  GDEXT_CHECK_VALUE(std::isfinite(seconds) && seconds >= 0,
                    "seconds: wanted a finite number >= 0, got ", seconds);
  args.seconds = seconds;
  cpu::path_sum(args, {});
}

}  // namespace gdext
