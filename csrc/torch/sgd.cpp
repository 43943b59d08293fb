// contract/sgd.h for lists of tensors, which may be of several dtypes and devices.
#include "contract/sgd.h"

#include <algorithm>
#include <cmath>

#include "torch/device.h"
#include "torch/meta.h"
#include "torch/ops.h"

namespace gdext {

namespace {

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

void check_one_element(const OptionalTensor& t, const char* name) {
  GDEXT_CHECK(!t || t->numel() == 1, name, ": wanted one element, got shape ", show(t->sizes()));
}

// The DType of the numbers that a parameter is made of: one each, or two where it is complex.
struct Numbers {
  DType dtype;
  int64_t per_element;

  Numbers(const Tensor& p, size_t i) : dtype(DType::f32), per_element(1) {
    if (p.scalar_type() == ScalarType::ComplexFloat) {
      per_element = 2;
    } else if (p.scalar_type() == ScalarType::ComplexDouble) {
      dtype = DType::f64;
      per_element = 2;
    } else {
      dtype = check_floating(p, at("params", i).c_str());
    }
  }
};

// list[i] is of the kind and shape of params[i].
void check_beside(const Meta& t, const TensorList& list, const char* name, size_t i, const Meta& p,
                  const TensorList& params) {
  if (t.is_kind_of(p) && t.has_shape_of(p)) return;
  const Tensor like = params.tensor(i);
  check_like(list.tensor(i), at(name, i).c_str(), like, at("params", i).c_str());
  check_shape(list.tensor(i), at(name, i).c_str(), like.sizes(),
              message("that of params[", i, ']').c_str());
}

void check_writable(const Meta& t, const char* list, size_t i) {
  if (t.contiguous) return;
  for (size_t d = 0; d < t.sizes.size(); ++d) {
    GDEXT_CHECK(t.sizes[d] <= 1 || t.strides[d] != 0, at(list, i),
                ": wanted every element at an address of its own, got an expanded tensor of shape ",
                show(t.sizes), " with strides ", show(t.strides));
  }
}

// The memory of params[i].
struct Span {
  const char* begin;
  const char* end;
  size_t i;
};

// Parameters that share memory would be updated in an order that nobody chose.
void check_apart(std::vector<Span>& spans) {
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
  // A tensor with the places of `like`, which fill() gives t's values.
  Tensor make(const Tensor& t, const Tensor& like, bool written) {
    copies_.push_back({t, torch::stable::empty_like(like), written});
    return copies_.back().copy;
  }
  void fill() {
    for (Copy& c : copies_) torch::stable::copy_(c.copy, c.original);
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
  Meta first;
  Tensor like;
  Numbers numbers;
  std::vector<SgdTensor> tensors;
  OptionalTensor lr, grad_scale, found_inf;  // on the device, of dtypes that the kernel reads
  OptionalTensor workspace;
  std::shared_ptr<cuda::Pinned> staging;
};

// Room for a list, on the device and on the host, where the kernel wants it.
void make_room([[maybe_unused]] Group& group) {
#if GDEXT_CUDA
  const auto count = static_cast<int64_t>(group.tensors.size());
  const int64_t bytes = sgd_workspace_bytes(count);
  if (!runs_on_cuda(group.like) || bytes == 0) return;
  group.workspace = empty({bytes}, ScalarType::Byte, group.like);
  group.staging = with_cuda(group.like, [&](Context) { return cuda::sgd_staging(count); });
#endif
}

size_t group_of(const Meta& p, size_t i, const TensorList& params, std::vector<Group>& groups) {
  for (size_t g = 0; g < groups.size(); ++g) {
    if (groups[g].first.is_kind_of(p)) return g;
  }
  const Tensor like = params.tensor(i);
  groups.push_back({p, like, Numbers(like, i), {}, {}, {}, {}, {}, {}});
  return groups.size() - 1;
}

// groups[group].tensors[position], where params[i] or what goes with it needs a copy.
struct Irregular {
  size_t i, group, position;
};

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

void sgd_(const TensorList& params, const TensorList& grads, const TensorList& momentum_buffers,
          const std::vector<bool>& first, double lr, double momentum, double dampening,
          double weight_decay, bool nesterov, bool maximize, const OptionalTensor& lr_tensor,
          const OptionalTensor& grad_scale, const OptionalTensor& found_inf, bool check_only) {
  const size_t count = params.size(), buffers = momentum != 0 ? count : 0;
  check_options(momentum, dampening, weight_decay, nesterov);
  const char* per_param = "one for each of params";
  const char* per_buffer = momentum != 0 ? per_param : "momentum is 0";
  check_length("grads", grads.size(), count, per_param);
  check_length("momentum_buffers", momentum_buffers.size(), buffers, per_buffer);
  if (!first.empty()) check_length("first", first.size(), buffers, per_buffer);
  check_one_element(lr_tensor, "lr_tensor");
  check_one_element(grad_scale, "grad_scale");
  check_one_element(found_inf, "found_inf");

  std::vector<Group> groups;
  std::vector<Span> spans;
  std::vector<Irregular> irregulars;
  spans.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const Meta p(params[i]), g(grads[i]);
    const size_t owner = group_of(p, i, params, groups);
    Group& group = groups[owner];
    check_writable(p, "params", i);
    check_beside(g, grads, "grads", i, p, params);
    if (grad_scale) check_writable(g, "grads", i);
    bool regular = is_dense(p);
    SgdTensor tensor{p.written(), grad_scale ? g.written() : const_cast<void*>(g.read()), nullptr,
                     p.numel * group.numbers.per_element, !first.empty() && first[i]};
    if (regular && tensor.n) {  // else it spans others' elements too: nothing can be said
      const char* begin = static_cast<const char*>(tensor.p);
      spans.push_back({begin, begin + tensor.n * size_of(group.numbers.dtype), i});
    }
    regular = regular && same_places(g, p);
    if (buffers) {
      const Meta m(momentum_buffers[i]);
      check_beside(m, momentum_buffers, "momentum_buffers", i, p, params);
      check_writable(m, "momentum_buffers", i);
      tensor.m = m.written();
      regular = regular && same_places(m, p);
    }
    if (!regular) irregulars.push_back({i, owner, group.tensors.size()});
    group.tensors.push_back(tensor);
  }
  check_apart(spans);
  // A number on the GPU stays there, unread: waiting for it would stall the stream.
  bool lr_on_device = lr_tensor && runs_on_cuda(*lr_tensor);
  for (const Group& group : groups) lr_on_device = lr_on_device && runs_on_cuda(group.like);
  const ScalarType lr_type = lr_tensor && lr_tensor->scalar_type() == ScalarType::Float
                                 ? ScalarType::Float
                                 : ScalarType::Double;
  if (lr_tensor && !lr_on_device) lr = read_number(*lr_tensor);
  GDEXT_CHECK_VALUE(lr_on_device || std::isfinite(lr), "lr: wanted a finite number, got ", lr);

  // All memory is allocated before anything is written. check_only, too, asks for it, and gives it
  // back: a caller who has several lists to update, or none of them, learns here that there is too
  // little.
  const NoGrad no_grad;
  Copies copies;
  for (const auto& [i, group, position] : irregulars) {
    SgdTensor& tensor = groups[group].tensors[position];
    Tensor p = params.tensor(i);
    if (!is_dense(Meta(p.get()))) {
      p = copies.make(p, p, true);
      tensor.p = p.mutable_data_ptr();
    }
    const auto put_beside = [&](const TensorList& list, bool written, void*& data) {
      if (same_places(Meta(list[i]), Meta(p.get()))) return;
      data = copies.make(list.tensor(i), p, written).mutable_data_ptr();
    };
    put_beside(grads, grad_scale.has_value(), tensor.g);
    if (buffers) put_beside(momentum_buffers, true, tensor.m);
  }
  for (Group& group : groups) make_room(group);
  if (check_only) return;
  copies.fill();
  for (Group& group : groups) {
    // An lr of float32, too, is read as it is: converting it would cost a launch.
    if (lr_on_device) group.lr = number_on(*lr_tensor, lr_type, group.like);
    if (grad_scale) group.grad_scale = number_on(*grad_scale, ScalarType::Float, group.like);
    if (found_inf) group.found_inf = number_on(*found_inf, ScalarType::Float, group.like);
  }
  for (Group& group : groups) {
    const SgdArgs args{group.numbers.dtype,
                       group.tensors.data(),
                       static_cast<int64_t>(group.tensors.size()),
                       lr,
                       data(group.lr),
                       momentum,
                       dampening,
                       weight_decay,
                       nesterov,
                       maximize,
                       static_cast<const float*>(data(group.grad_scale)),
                       static_cast<const float*>(data(group.found_inf)),
                       group.workspace ? group.workspace->mutable_data_ptr() : nullptr,
                       lr_type == ScalarType::Float ? DType::f32 : DType::f64,
                       group.staging};
    GDEXT_RUN(group.like, sgd, args);
  }
  copies.write_back();
}

}  // namespace gdext
