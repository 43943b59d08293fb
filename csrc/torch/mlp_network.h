// The layers and parameter groups of contract/mlp.h from tensors.
#pragma once
#include <algorithm>

#include "contract/mlp.h"
#include "torch/meta.h"
#include "torch/tensor_list.h"

namespace gdext {

// The layers and parameter groups, checked against one another.
class MlpNetwork {
 public:
  static constexpr size_t kOptions = 6;  // of a group: MlpGroup's

  std::vector<MlpLayer> layers;
  std::vector<MlpGroup> groups;
  DType dtype;

  MlpNetwork(const TensorList& params, const TensorList& momentum_buffers,
             const std::vector<bool>& first, const std::vector<bool>& biases,
             const std::vector<int64_t>& activations, const std::vector<int64_t>& group_of,
             const std::vector<double>& options)
      : params_(params), buffers_(momentum_buffers), first_(first), group_of_(group_of) {
    const size_t L = biases.size();
    GDEXT_CHECK_VALUE(L > 0, "biases: wanted one for each layer, got none");
    const size_t count = L + static_cast<size_t>(std::count(biases.begin(), biases.end(), true));
    check_length("params", params.size(), count, "one for each weight and bias");
    check_length("activations", activations.size(), L, "one for each layer");
    check_length("groups", group_of.size(), count, "one for each of params");
    check_length("first", first.size(), buffers_.size(), "one for each of momentum_buffers");
    GDEXT_CHECK_VALUE(!options.empty() && options.size() % kOptions == 0, "options: wanted ",
                      kOptions, " numbers for each group, got ", options.size());
    for (size_t i = 0; i < options.size(); i += kOptions) {
      groups.push_back({options[i], options[i + 1], options[i + 2], options[i + 3] != 0,
                        options[i + 4] != 0, options[i + 5]});
    }
    dtype = check_floating(params.tensor(0), "params[0]");
    const Meta kind(params[0]);
    for (size_t l = 0; l < L; ++l) {
      MlpLayer layer{};
      layer.activation = check_activation(activations[l]);
      const Meta w(params[next_]);
      GDEXT_CHECK(w.sizes.size() == 2 && w.numel > 0 && (l == 0 || w.sizes[1] == layers.back().O),
                  at("params", next_), ": wanted shape [out_features, ",
                  l ? std::to_string(layers.back().O) : "in_features", "], no size of 0, got ",
                  show(w.sizes));
      layer.O = w.sizes[0];
      layer.I = w.sizes[1];
      layer.w = next_parameter(w, kind);
      if (biases[l]) {
        const Meta b(params[next_]);
        GDEXT_CHECK(b.sizes.size() == 1 && b.numel == layer.O, at("params", next_),
                    ": wanted shape [", layer.O, "] (out_features of its weight), got ",
                    show(b.sizes));
        layer.b = next_parameter(b, kind);
      }
      layers.push_back(layer);
    }
    check_length("momentum_buffers", buffers_.size(), next_buffer_,
                 "those of groups with momentum");
  }

 private:
  const TensorList& params_;
  const TensorList& buffers_;
  const std::vector<bool>& first_;
  const std::vector<int64_t>& group_of_;
  size_t next_ = 0, next_buffer_ = 0;

  MlpParameter next_parameter(const Meta& p, const Meta& kind) {
    const size_t i = next_++;
    if (!p.is_kind_of(kind)) {
      check_like(params_.tensor(i), at("params", i).c_str(), params_.tensor(0), "params[0]");
    }
    const int64_t group = group_of_[i];
    GDEXT_CHECK_VALUE(group >= 0 && group < static_cast<int64_t>(groups.size()), at("groups", i),
                      ": wanted a number from 0 to ", groups.size() - 1, ", got ", group);
    MlpParameter result;
    result.data = p.written();
    result.row_stride = p.strides[0];
    result.col_stride = p.strides.size() == 2 ? p.strides[1] : 1;
    result.group = static_cast<int>(group);
    if (groups[group].momentum != 0) {
      const size_t j = next_buffer_++;
      GDEXT_CHECK_VALUE(j < buffers_.size(), "momentum_buffers: wanted one for each parameter ",
                        "whose group has momentum, got ", buffers_.size());
      const Meta m(buffers_[j]);
      if (!m.is_kind_of(kind)) {
        check_like(buffers_.tensor(j), at("momentum_buffers", j).c_str(), params_.tensor(0),
                   "params[0]");
      }
      GDEXT_CHECK(m.has_shape_of(p), at("momentum_buffers", j), ": wanted shape ", show(p.sizes),
                  " (that of params[", i, "]), got ", show(m.sizes));
      result.momentum = m.written();
      result.momentum_row_stride = m.strides[0];
      result.momentum_col_stride = m.strides.size() == 2 ? m.strides[1] : 1;
      result.first = first_[j];
    }
    return result;
  }
};

}  // namespace gdext
