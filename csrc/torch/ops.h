// The ops that library.cpp registers, one .cpp each (linear.cpp, mse.cpp, cross_entropy.cpp,
// sgd.cpp, mlp.cpp, path_sum.cpp, peak.cpp). What they compute stands in csrc/contract; the schemas
// in library.cpp.
#pragma once
#include <tuple>

#include "torch/checks.h"
#include "torch/tensor_list.h"

namespace gdext {

using OptionalTensor = std::optional<Tensor>;

std::tuple<Tensor, Tensor> linear(Tensor x, Tensor weight, OptionalTensor bias, int64_t activation,
                                  bool want_z);
std::tuple<Tensor, Tensor, Tensor> linear_backward(Tensor dy, OptionalTensor saved,
                                                   OptionalTensor x, OptionalTensor weight,
                                                   int64_t activation, std::vector<bool> wanted);
std::tuple<Tensor, Tensor, Tensor> activation_double_backward(Tensor q, Tensor dy, Tensor saved,
                                                              int64_t activation);

std::tuple<Tensor, Tensor> mse(Tensor x, Tensor target, OptionalTensor weight, int64_t reduction);
Tensor mse_backward(Tensor dy, Tensor x, Tensor target, OptionalTensor weight, Tensor norm);
std::tuple<Tensor, Tensor> mse_double_backward(Tensor u, Tensor dy, Tensor x, Tensor target,
                                               OptionalTensor weight, Tensor norm,
                                               int64_t reduction);

std::tuple<Tensor, Tensor, Tensor> cross_entropy(Tensor x, Tensor target, OptionalTensor weight,
                                                 int64_t reduction, int64_t ignore_index,
                                                 double label_smoothing);
std::tuple<Tensor, Tensor> cross_entropy_backward(Tensor dy, Tensor x, Tensor target,
                                                  OptionalTensor weight, Tensor stats, Tensor norm,
                                                  int64_t ignore_index, double label_smoothing,
                                                  std::vector<bool> wanted);
std::tuple<Tensor, Tensor, Tensor> cross_entropy_double_backward(
    OptionalTensor u, OptionalTensor v, Tensor dy, Tensor x, Tensor target, OptionalTensor weight,
    Tensor stats, Tensor norm, int64_t reduction, int64_t ignore_index, double label_smoothing,
    bool want_gt);

void sgd_(const TensorList& params, const TensorList& grads, const TensorList& momentum_buffers,
          const std::vector<bool>& first, double lr, double momentum, double dampening,
          double weight_decay, bool nesterov, bool maximize, const OptionalTensor& lr_tensor,
          const OptionalTensor& grad_scale, const OptionalTensor& found_inf, bool check_only);

// Takes steps from `done` on until all are taken or `seconds` have passed, and adds their number to
// `done`. Returns the bytes of workspace that this wants: where `workspace` has fewer, as an empty
// one always has, nothing was done. params: for each layer its weight [O,I] and, where `biases`
// says so, bias [O]; groups: the group of each; options: MlpGroup's five numbers for each group and
// its lr; lr: [steps, groups] in its place; momentum_buffers: one for each of params whose group
// has momentum, `first` likewise. gradient: where given, a call takes one step, and in place of an
// update stores dw and db there, one after the other as in params; float64 for parameters of
// float64, else float32. norms: [steps], in place of those of `reduction`.
int64_t mlp_(const TensorList& params, const TensorList& momentum_buffers,
             const std::vector<bool>& first, const std::vector<bool>& biases,
             const std::vector<int64_t>& activations, const std::vector<int64_t>& groups,
             const std::vector<double>& options, Tensor inputs, Tensor targets,
             const OptionalTensor& order, int64_t batch_size, const OptionalTensor& lr,
             double input_scale, double input_shift, int64_t loss, int64_t reduction,
             OptionalTensor class_weight, int64_t ignore_index, double label_smoothing,
             Tensor workspace, Tensor losses, Tensor done, double seconds,
             const OptionalTensor& gradient, const OptionalTensor& norms);

// Adds paths, from the one numbered counts[0] on, until all are done or `seconds` have passed.
// slopes: no elements where a layer has no activation; db: no elements where it has no bias.
// counts: paths walked and multiplications done, both added to.
void path_sum_(const TensorList& weights, const TensorList& inputs, const TensorList& slopes,
               Tensor dy, const TensorList& dw, const TensorList& db, Tensor counts,
               double seconds);

double fma_peak(ScalarType dtype, double seconds);
double bandwidth(int64_t bytes, double seconds);
// On CUDA tensors: start the work and return how many operations or bytes it is.
double fma_work_(Tensor out, int64_t repeats);
double update_work_(Tensor p, Tensor g, int64_t repeats);

}  // namespace gdext
