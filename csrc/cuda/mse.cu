// mse on CUDA (contract/mse.h).
#include "contract/mse.h"
#include "cuda/formulas.cuh"
#include "cuda/reduce.cuh"

namespace gdext::cuda {
namespace {

// w[i], or 1 where there are no weights.
template <class T>
__device__ acc_t<T> weight_at(const T* w, int64_t i) {
  return w ? static_cast<acc_t<T>>(w[i]) : acc_t<T>(1);
}

template <class T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    mse_kernel(const T* x, const T* t, const T* w, int64_t n, Reduction reduction, T* loss,
               acc_t<T>* norm, double* partials) {
  using A = acc_t<T>;
  double loss_sum = 0, weight_sum = 0;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kThreads;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t i = first; i < n; i += threads) {
    const A weight = weight_at(w, i);
    const A value = squared_error(static_cast<A>(x[i]), static_cast<A>(t[i]), weight);
    if (reduction == Reduction::none) loss[i] = T(value);
    loss_sum += static_cast<double>(value);
    weight_sum += static_cast<double>(weight);
  }
  if (reduction == Reduction::none) {
    if (first == 0) *norm = A(1);
    return;
  }
  store_partial(partials, loss_sum);
  store_partial(partials + kPartials, weight_sum);
}

// dx = dy 2 w (x - t) / norm
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    mse_backward_kernel(const T* dy, int64_t dy_stride, const T* x, const T* t, const T* w,
                        const acc_t<T>* norm, T* dx, int64_t n) {
  using A = acc_t<T>;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  dx[i] = T(squared_error_dx(static_cast<A>(x[i]), static_cast<A>(t[i]), weight_at(w, i),
                             static_cast<A>(dy[i * dy_stride]) / *norm));
}

// gdy = u 2 w (x - t) / norm,  gx = u 2 w dy / norm
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    mse_double_backward_kernel(const T* u, const T* dy, int64_t dy_stride, const T* x, const T* t,
                               const T* w, const acc_t<T>* norm, Reduction reduction, T* gdy, T* gx,
                               int64_t n, double* partials) {
  using A = acc_t<T>;
  double gdy_sum = 0;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kThreads;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t i = first; i < n; i += threads) {
    const A ui = static_cast<A>(u[i]), weight = weight_at(w, i);
    const A of_dy =
        squared_error_dx(static_cast<A>(x[i]), static_cast<A>(t[i]), weight, ui / *norm);
    // The gradient is linear in x - t: its derivative along u is itself with u for x - t.
    const A of_x = squared_error_dx(ui, A(0), weight, static_cast<A>(dy[i * dy_stride]));
    gx[i] = T(of_x / *norm);
    if (reduction == Reduction::none) gdy[i] = T(of_dy);
    gdy_sum += static_cast<double>(of_dy);
  }
  if (reduction != Reduction::none) store_partial(partials, gdy_sum);
}

}  // namespace

void mse(const MseArgs& args, Context context) {
  for_dtype(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    const int64_t blocks = reduction_blocks(args.n, 1);
    launch("mse", mse_kernel<T>, blocks, kThreads, context, static_cast<const T*>(args.x),
           static_cast<const T*>(args.t), static_cast<const T*>(args.w), args.n, args.reduction,
           static_cast<T*>(args.loss), static_cast<acc_t<T>*>(args.norm), args.workspace);
    if (args.reduction == Reduction::none) return;
    launch("mse, sum of its parts", finish_loss_kernel<T>, 1, kThreads, context, args.workspace,
           blocks, args.reduction, args.w != nullptr, static_cast<double>(args.n),
           static_cast<T*>(args.loss), static_cast<acc_t<T>*>(args.norm));
  });
}

void mse_backward(const MseBackwardArgs& args, Context context) {
  for_dtype(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    launch("mse_backward", mse_backward_kernel<T>, ceil_div(args.n, kThreads), kThreads, context,
           static_cast<const T*>(args.dy), args.dy_stride, static_cast<const T*>(args.x),
           static_cast<const T*>(args.t), static_cast<const T*>(args.w),
           static_cast<const acc_t<T>*>(args.norm), static_cast<T*>(args.dx), args.n);
  });
}

void mse_double_backward(const MseDoubleBackwardArgs& args, Context context) {
  for_dtype(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    const int64_t blocks = reduction_blocks(args.n, 1);
    launch("mse_double_backward", mse_double_backward_kernel<T>, blocks, kThreads, context,
           static_cast<const T*>(args.u), static_cast<const T*>(args.dy), args.dy_stride,
           static_cast<const T*>(args.x), static_cast<const T*>(args.t),
           static_cast<const T*>(args.w), static_cast<const acc_t<T>*>(args.norm), args.reduction,
           static_cast<T*>(args.gdy), static_cast<T*>(args.gx), args.n, args.workspace);
    if (args.reduction == Reduction::none) return;
    launch("mse_double_backward, sum of its parts", finish_gdy_kernel<T>, 1, kThreads, context,
           args.workspace, blocks, static_cast<T*>(args.gdy));
  });
}

}  // namespace gdext::cuda
