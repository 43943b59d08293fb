// contract/sgd.h for lists of tensors, which may be of several dtypes and devices.
#include "contract/sgd.h"

#include <algorithm>
#include <cmath>

#include "torch/device.h"
#include "torch/ops.h"

namespace gdext {

namespace {

// "grads[3]"
std::string at(const char* list, size_t i) { return message(list, '[', i, ']'); }

// What the tensors that one kernel call works on have in common.
struct Kind {
  int32_t layout, dtype, device_type, device_index;

  explicit Kind(const Tensor& t) {
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_layout(t.get(), &layout));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(t.get(), &dtype));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(t.get(), &device_type));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(t.get(), &device_index));
  }
  bool operator==(const Kind& other) const {
    return layout == other.layout && dtype == other.dtype && device_type == other.device_type &&
           device_index == other.device_index;
  }
};

void check_number(const char* name, double value) {
  GDEXT_CHECK_VALUE(std::isfinite(value) && value >= 0, name, ": wanted a finite number >= 0, got ",
                    value);
}

void check_options(double momentum, double dampening, double weight_decay, bool nesterov) {
  check_number("momentum", momentum);
  check_number("weight_decay", weight_decay);
  GDEXT_CHECK_VALUE(std::isfinite(dampening), "dampening: wanted a finite number, got ", dampening);
  GDEXT_CHECK_VALUE(!nesterov || (momentum > 0 && dampening == 0),
                    "nesterov: wanted momentum > 0 and dampening == 0, got momentum ", momentum,
                    " and dampening ", dampening);
}

void check_length(const char* name, size_t got, size_t wanted, const char* why) {
  GDEXT_CHECK_VALUE(got == wanted, name, ": wanted ", wanted, " elements (", why, "), got ", got);
}

void check_one_element(const OptionalTensor& t, const char* name) {
  GDEXT_CHECK(!t || t->numel() == 1, name, ": wanted one element, got shape ", show(t->sizes()));
}

bool same(Sizes a, Sizes b) { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }

void check_beside(const Tensor& t, const char* list, size_t i, const Tensor& p, const Kind& kind) {
  if (Kind(t) == kind && same(t.sizes(), p.sizes())) return;
  check_like(t, at(list, i).c_str(), p, at("params", i).c_str());
  check_shape(t, at(list, i).c_str(), p.sizes(), message("that of params[", i, ']').c_str());
}

void check_writable(const Tensor& t, const char* list, size_t i) {
  if (t.is_contiguous()) return;
  const Sizes sizes = t.sizes(), strides = t.strides();
  for (size_t d = 0; d < sizes.size(); ++d) {
    GDEXT_CHECK(sizes[d] <= 1 || strides[d] != 0, at(list, i),
                ": wanted every element at an address of its own, got an expanded tensor of shape ",
                show(sizes), " with strides ", show(strides));
  }
}

// Whether the elements fill [data, data + numel), in any order.
bool is_dense(const Tensor& t) {
  if (t.is_contiguous()) return true;
  const Sizes sizes = t.sizes(), strides = t.strides();
  std::vector<size_t> dims;
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] != 1) dims.push_back(d);
  }
  std::sort(dims.begin(), dims.end(), [&](size_t a, size_t b) { return strides[a] < strides[b]; });
  int64_t expected = 1;
  for (const size_t d : dims) {
    if (strides[d] != expected) return false;
    expected *= sizes[d];
  }
  return true;
}

// Whether a and b, of one shape, have their elements in the same places.
bool same_places(const Tensor& a, const Tensor& b) {
  if (a.is_contiguous() && b.is_contiguous()) return true;
  const Sizes sizes = a.sizes(), left = a.strides(), right = b.strides();
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] > 1 && left[d] != right[d]) return false;
  }
  return true;
}

// Parameters that share memory would be updated in an order that nobody chose.
void check_apart(const std::vector<Tensor>& params) {
  struct Span {
    const char* begin;
    const char* end;
    size_t i;
  };
  std::vector<Span> spans;
  spans.reserve(params.size());
  for (size_t i = 0; i < params.size(); ++i) {
    if (!is_dense(params[i])) continue;  // its span holds others' elements too: nothing can be said
    const auto* begin = static_cast<const char*>(data(params[i]));
    const int64_t bytes = params[i].numel() * static_cast<int64_t>(params[i].element_size());
    if (bytes) spans.push_back({begin, begin + bytes, i});
  }
  std::sort(spans.begin(), spans.end(),
            [](const Span& a, const Span& b) { return a.begin < b.begin; });
  for (size_t s = 1; s < spans.size(); ++s) {
    const auto [low, high] = std::minmax(spans[s - 1].i, spans[s].i);
    GDEXT_CHECK(spans[s - 1].end <= spans[s].begin, at("params", high),
                ": wanted memory of its own, got memory of ", at("params", low));
  }
}

// The copies that stand in for tensors whose memory the kernel cannot walk as it walks its
// parameter's.
class Copies {
 public:
  // A tensor with t's values and the places of `like`.
  Tensor make(const Tensor& t, const Tensor& like, bool written) {
    Tensor copy = torch::stable::empty_like(like);
    torch::stable::copy_(copy, t);
    copies_.push_back({t, copy, written});
    return copy;
  }
  void write_back() {
    for (Copy& c : copies_) {
      if (c.written) torch::stable::copy_(c.original, c.copy);
    }
  }

 private:
  struct Copy {
    Tensor original, copy;
    bool written;
  };
  std::vector<Copy> copies_;
};

// The copies are no part of any graph, and a parameter is a leaf that autograd would refuse to
// write to.
class NoGrad {
 public:
  NoGrad() : enabled_(aoti_torch_grad_mode_is_enabled()) {
    aoti_torch_grad_mode_set_enabled(false);
  }
  ~NoGrad() { aoti_torch_grad_mode_set_enabled(enabled_); }
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  bool enabled_;
};

// The tensors of one dtype on one device: one kernel call.
struct Group {
  Kind kind;
  DType dtype;
  const Tensor* like;
  std::vector<SgdTensor> tensors;
  OptionalTensor lr, grad_scale, found_inf;  // on the device, in the kernel's dtype
};

size_t group_of(const Tensor& p, size_t i, const Kind& kind, std::vector<Group>& groups) {
  for (size_t g = 0; g < groups.size(); ++g) {
    if (groups[g].kind == kind) return g;
  }
  groups.push_back({kind, check_floating(p, at("params", i).c_str()), &p, {}, {}, {}, {}});
  return groups.size() - 1;
}

// A number in `dtype` on the device of `like`.
Tensor number_on(const Tensor& t, ScalarType dtype, const Tensor& like) {
  if (t.scalar_type() == dtype && t.device() == like.device()) return t;
  return torch::stable::to(t, dtype, std::nullopt, like.device());
}

double read_number(const Tensor& t) {
  const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
  const Tensor host = torch::stable::to(t, ScalarType::Double, std::nullopt, cpu);
  return *static_cast<const double*>(data(host));
}

}  // namespace

void sgd_(const std::vector<Tensor>& params, const std::vector<Tensor>& grads,
          const std::vector<Tensor>& momentum_buffers, const std::vector<bool>& first, double lr,
          const OptionalTensor& lr_tensor, double momentum, double dampening, double weight_decay,
          bool nesterov, bool maximize, const OptionalTensor& grad_scale,
          const OptionalTensor& found_inf, bool check_only) {
  const size_t count = params.size(), buffers = momentum != 0 ? count : 0;
  check_options(momentum, dampening, weight_decay, nesterov);
  const char* per_param = "one for each of params";
  const char* per_buffer = momentum != 0 ? per_param : "momentum is 0";
  check_length("grads", grads.size(), count, per_param);
  check_length("momentum_buffers", momentum_buffers.size(), buffers, per_buffer);
  check_length("first", first.size(), buffers, per_buffer);
  check_one_element(lr_tensor, "lr_tensor");
  check_one_element(grad_scale, "grad_scale");
  check_one_element(found_inf, "found_inf");

  std::vector<Group> groups;
  std::vector<size_t> owner(count);  // the group of each parameter
  for (size_t i = 0; i < count; ++i) {
    const Kind kind(params[i]);
    owner[i] = group_of(params[i], i, kind, groups);
    check_writable(params[i], "params", i);
    check_beside(grads[i], "grads", i, params[i], kind);
    if (grad_scale) check_writable(grads[i], "grads", i);
    if (buffers) {
      check_beside(momentum_buffers[i], "momentum_buffers", i, params[i], kind);
      check_writable(momentum_buffers[i], "momentum_buffers", i);
    }
  }
  check_apart(params);
  // A number on the GPU stays there, unread: waiting for it would stall the stream.
  bool lr_on_device = lr_tensor && lr_tensor->is_cuda();
  for (const Group& group : groups) lr_on_device = lr_on_device && group.like->is_cuda();
  if (lr_tensor && !lr_on_device) lr = read_number(*lr_tensor);
  GDEXT_CHECK_VALUE(lr_on_device || std::isfinite(lr), "lr: wanted a finite number, got ", lr);
  // The caller has several lists to update, or none of them.
  if (check_only) return;

  const NoGrad no_grad;
  Copies copies;
  for (size_t i = 0; i < count; ++i) {
    const Tensor p = is_dense(params[i]) ? params[i] : copies.make(params[i], params[i], true);
    const auto beside = [&](const Tensor& t, bool written) {
      return same_places(t, p) ? t : copies.make(t, p, written);
    };
    const Tensor g = beside(grads[i], grad_scale.has_value());
    groups[owner[i]].tensors.push_back(
        {p.mutable_data_ptr(), grad_scale ? g.mutable_data_ptr() : const_cast<void*>(data(g)),
         buffers ? beside(momentum_buffers[i], true).mutable_data_ptr() : nullptr, p.numel(),
         buffers && first[i]});
  }
  for (Group& group : groups) {
    if (lr_on_device) group.lr = number_on(*lr_tensor, ScalarType::Double, *group.like);
    if (grad_scale) group.grad_scale = number_on(*grad_scale, ScalarType::Float, *group.like);
    if (found_inf) group.found_inf = number_on(*found_inf, ScalarType::Float, *group.like);
  }
  for (const Group& group : groups) {
    const SgdArgs args{group.dtype,
                       group.tensors.data(),
                       static_cast<int64_t>(group.tensors.size()),
                       lr,
                       static_cast<const double*>(data(group.lr)),
                       momentum,
                       dampening,
                       weight_decay,
                       nesterov,
                       maximize,
                       static_cast<const float*>(data(group.grad_scale)),
                       static_cast<const float*>(data(group.found_inf))};
    GDEXT_RUN(*group.like, sgd, args);
  }
  copies.write_back();
}

}  // namespace gdext
