// Every schema and registration of the library `gdext`: torch.ops.gdext.*. The same functions serve
// both devices; the sparse keys are there so that a sparse tensor meets our checks and not the
// dispatcher's list.
#include <torch/csrc/stable/library.h>

#include "cpu/kernels.h"
#include "torch/device.h"
#include "torch/ops.h"

namespace {

#if defined(__clang__)
constexpr const char* kCompiler = __VERSION__;  // "Clang 18.1.3", perhaps with a vendor before it
#else
constexpr const char* kCompiler = "GCC " __VERSION__;
#endif

// torch.ops.gdext._build_config(): what gdext.build_info() reports, as JSON.
std::string build_config() {
  return gdext::message(
      "{\"version\": \"", GDEXT_VERSION, "\", \"built_with_torch\": \"", GDEXT_BUILT_WITH_TORCH,
      "\", \"compiler\": \"", kCompiler, "\", \"cuda_version\": \"", GDEXT_CUDA_VERSION,
      "\", \"cuda_archs\": \"", GDEXT_CUDA_ARCHS,
      "\", \"torch_has_cuda\": ", gdext::torch_has_cuda() ? "true" : "false", "}");
}

std::string cpu_isas() { return gdext::cpu::compiled_isas(); }
std::string cpu_isa_in_use() { return gdext::cpu::kernels().isa; }

void register_kernels(torch::stable::detail::StableLibrary& m) {
  using namespace gdext;
  m.impl("linear", TORCH_BOX(&linear));
  m.impl("linear_backward", TORCH_BOX(&linear_backward));
  m.impl("activation_double_backward", TORCH_BOX(&activation_double_backward));
  m.impl("mse", TORCH_BOX(&mse));
  m.impl("mse_backward", TORCH_BOX(&mse_backward));
  m.impl("mse_double_backward", TORCH_BOX(&mse_double_backward));
  m.impl("cross_entropy", TORCH_BOX(&cross_entropy));
  m.impl("cross_entropy_backward", TORCH_BOX(&cross_entropy_backward));
  m.impl("cross_entropy_double_backward", TORCH_BOX(&cross_entropy_double_backward));
  m.impl("sgd_", TORCH_BOX(&sgd_));
  m.impl("mlp_", TORCH_BOX(&mlp_));
  m.impl("path_sum_", TORCH_BOX(&path_sum_));
}

}  // namespace

STABLE_TORCH_LIBRARY(gdext, m) {
  m.def(
      "linear(Tensor x, Tensor weight, Tensor? bias, int activation, bool want_z)"
      " -> (Tensor y, Tensor z)");
  m.def(
      "linear_backward(Tensor dy, Tensor? saved, Tensor? x, Tensor? weight, int activation,"
      " bool[] wanted) -> (Tensor dx, Tensor dw, Tensor db)");
  m.def(
      "activation_double_backward(Tensor q, Tensor dy, Tensor saved, int activation)"
      " -> (Tensor gdy, Tensor gz, Tensor dz)");
  m.def(
      "mse(Tensor x, Tensor target, Tensor? weight, int reduction)"
      " -> (Tensor loss, Tensor norm)");
  m.def(
      "mse_backward(Tensor dy, Tensor x, Tensor target, Tensor? weight, Tensor norm)"
      " -> Tensor");
  m.def(
      "mse_double_backward(Tensor u, Tensor dy, Tensor x, Tensor target, Tensor? weight,"
      " Tensor norm, int reduction) -> (Tensor gdy, Tensor gx)");
  m.def(
      "cross_entropy(Tensor x, Tensor target, Tensor? weight, int reduction, int ignore_index,"
      " float label_smoothing) -> (Tensor loss, Tensor stats, Tensor norm)");
  m.def(
      "cross_entropy_backward(Tensor dy, Tensor x, Tensor target, Tensor? weight, Tensor stats,"
      " Tensor norm, int ignore_index, float label_smoothing, bool[] wanted)"
      " -> (Tensor dx, Tensor dt)");
  m.def(
      "cross_entropy_double_backward(Tensor? u, Tensor? v, Tensor dy, Tensor x, Tensor target,"
      " Tensor? weight, Tensor stats, Tensor norm, int reduction, int ignore_index,"
      " float label_smoothing, bool want_gt) -> (Tensor gdy, Tensor gx, Tensor gt)");
  m.def(
      "sgd_(Tensor(a!)[] params, Tensor(b!)[] grads, Tensor(c!)[] momentum_buffers, bool[] first,"
      " float lr, float momentum=0, float dampening=0, float weight_decay=0, bool nesterov=False,"
      " bool maximize=False, Tensor? lr_tensor=None, Tensor? grad_scale=None,"
      " Tensor? found_inf=None, bool check_only=False) -> ()");
  m.def(
      "mlp_(Tensor(a!)[] params, Tensor(b!)[] momentum_buffers, bool[] first, bool[] biases,"
      " int[] activations, int[] groups, float[] options, Tensor inputs, Tensor targets,"
      " Tensor? order, int batch_size, Tensor? lr, *, float input_scale, float input_shift,"
      " int loss, int reduction, Tensor? class_weight, int ignore_index, float label_smoothing,"
      " Tensor(c!) workspace, Tensor(d!) losses, Tensor(e!) done, float seconds,"
      " Tensor(f!)? gradient=None, Tensor? norms=None) -> int");
  m.def(
      "path_sum_(Tensor[] weights, Tensor[] inputs, Tensor[] slopes, Tensor dy, Tensor(a!)[] dw,"
      " Tensor(b!)[] db, Tensor(c!) counts, float seconds) -> ()");
  m.def("_build_config() -> str");
  m.def("_allows_tf32() -> bool");
  m.def("_cpu_isas() -> str");
  m.def("_cpu_isa_in_use() -> str");
  m.def("_fma_peak(ScalarType dtype, float seconds) -> float");
  m.def("_bandwidth(int bytes, float seconds) -> float");
  m.def("_fma_work_(Tensor(a!) out, int repeats) -> float");
  m.def("_update_work_(Tensor(a!) p, Tensor g, int repeats) -> float");
}

STABLE_TORCH_LIBRARY_IMPL(gdext, CompositeExplicitAutograd, m) {
  m.impl("_build_config", TORCH_BOX(&build_config));
  m.impl("_allows_tf32", TORCH_BOX(&gdext::allows_tf32));
  m.impl("_cpu_isas", TORCH_BOX(&cpu_isas));
  m.impl("_cpu_isa_in_use", TORCH_BOX(&cpu_isa_in_use));
  m.impl("_fma_peak", TORCH_BOX(&gdext::fma_peak));
  m.impl("_bandwidth", TORCH_BOX(&gdext::bandwidth));
}

// Not left to autograd's fallback, which would refuse to have parameters written to where gradients
// are enabled: to a step they are what an optimizer's are.
STABLE_TORCH_LIBRARY_IMPL(gdext, Autograd, m) { m.impl("mlp_", TORCH_BOX(&gdext::mlp_)); }

STABLE_TORCH_LIBRARY_IMPL(gdext, CPU, m) { register_kernels(m); }
STABLE_TORCH_LIBRARY_IMPL(gdext, CUDA, m) {
  register_kernels(m);
  m.impl("_fma_work_", TORCH_BOX(&gdext::fma_work_));
  m.impl("_update_work_", TORCH_BOX(&gdext::update_work_));
}
STABLE_TORCH_LIBRARY_IMPL(gdext, SparseCPU, m) { register_kernels(m); }
STABLE_TORCH_LIBRARY_IMPL(gdext, SparseCUDA, m) { register_kernels(m); }
STABLE_TORCH_LIBRARY_IMPL(gdext, SparseCsrCPU, m) { register_kernels(m); }
STABLE_TORCH_LIBRARY_IMPL(gdext, SparseCsrCUDA, m) { register_kernels(m); }
