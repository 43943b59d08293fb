// linear on CUDA (contract/linear.h).
#include "contract/linear.h"
#include "cuda/activations.cuh"
#include "cuda/gemm.cuh"
#include "cuda/reduce.cuh"

namespace gdext::cuda {
namespace {

template <class A>
__device__ A activation_gz(Activation activation, A q, A dy, A s) {
  A gz = A(0);
  with_activation(activation,
                  [&](auto tag) { gz = cuda::activation_gz<decltype(tag)::value>(q, dy, s); });
  return gz;
}

// z = sum + b,  y = f(z)
template <class T>
struct StoreActivated {
  const T* b;  // [N], or null
  T* y;        // [M,N]
  T* z;        // [M,N], or null
  int64_t N;
  Activation activation;

  __device__ T read(int64_t, int64_t n) const { return b ? b[n] : T{}; }
  __device__ void finish(int64_t m, int64_t n, acc_t<T> sum, T bias) const {
    if (b) sum += static_cast<acc_t<T>>(bias);
    if (z) z[m * N + n] = T(sum);
    y[m * N + n] = T(activate(activation, sum));
  }
  __device__ void operator()(int64_t m, int64_t n, acc_t<T> sum) const {
    finish(m, n, sum, read(m, n));
  }
};

template <class T>
struct Store {
  T* c;  // [M,N]
  int64_t N;

  __device__ void operator()(int64_t m, int64_t n, acc_t<T> sum) const { c[m * N + n] = T(sum); }
};

// dz = dy f'(s). A block makes a tile of kWarp rows and columns, a warp every kWarps-th row of it.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    dz_kernel(Matrix dy, Matrix s, T* dz, int64_t B, int64_t O, Activation activation) {
  using A = acc_t<T>;
  constexpr int kWarps = kThreads / kWarp;
  const int64_t tiles_across = ceil_div(O, kWarp);
  const int64_t first_row = blockIdx.x / tiles_across * kWarp;
  const int64_t o = blockIdx.x % tiles_across * kWarp + threadIdx.x % kWarp;
  if (o >= O) return;
  const T* dy_column = static_cast<const T*>(dy.data) + o * dy.col_stride;
  const T* s_column = static_cast<const T*>(s.data) + o * s.col_stride;
#pragma unroll 1
  for (int row = threadIdx.x / kWarp; row < kWarp; row += kWarps) {
    const int64_t b = first_row + row;
    if (b >= B) return;
    dz[b * O + o] = T(activation_backward(activation, static_cast<A>(dy_column[b * dy.row_stride]),
                                          static_cast<A>(s_column[b * s.row_stride])));
  }
}

// db = sum_b dz[b,:]. A block owns kWarp columns.
template <class T>
__global__ void __launch_bounds__(kSumThreads) db_kernel(Matrix dz, T* db, int64_t B, int64_t O) {
  const int64_t o = static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x % kWarp;
  const acc_t<T> sum = sum_of_column(static_cast<const T*>(dz.data) + o * dz.col_stride,
                                     dz.row_stride, o < O ? B : 0);
  if (threadIdx.x < kWarp && o < O) db[o] = T(sum);
}

// gdy = q f'(z),  gz = q dy f''(z),  dz = dy f'(z)
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    activation_double_backward_kernel(const T* q, const T* dy, const T* s, T* gdy, T* gz, T* dz,
                                      int64_t n, Activation activation) {
  using A = acc_t<T>;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  const A qi = static_cast<A>(q[i]), dyi = static_cast<A>(dy[i]), si = static_cast<A>(s[i]);
  gdy[i] = T(activation_backward(activation, qi, si));
  gz[i] = T(activation_gz(activation, qi, dyi, si));
  dz[i] = T(activation_backward(activation, dyi, si));
}

// The products.
template <class T>
void multiply_dz(const LinearBackwardArgs& args, Matrix dz, Context context) {
  if (args.dx)
    gemm<T, T, Product::dx>("linear_backward dx", dz, args.w, args.B, args.I, args.O,
                            Store<T>{static_cast<T*>(args.dx), args.I}, context);
  if (args.dw)
    gemm<T, T, Product::dw>("linear_backward dw", transposed(dz), args.x, args.O, args.I, args.B,
                            Store<T>{static_cast<T*>(args.dw), args.I}, context);
  if (args.db)
    launch("linear_backward db", db_kernel<T>, ceil_div(args.O, kWarp), kSumThreads, context, dz,
           static_cast<T*>(args.db), args.B, args.O);
}

}  // namespace

void linear(const LinearArgs& args, Context context) {
  for_dtype(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    const StoreActivated<T> epilogue{static_cast<const T*>(args.b), static_cast<T*>(args.y),
                                     static_cast<T*>(args.z), args.O, args.activation};
    gemm<T, T, Product::y>("linear", args.x, transposed(args.w), args.B, args.O, args.I, epilogue,
                           context);
  });
}

void linear_backward(const LinearBackwardArgs& args, Context context) {
  for_dtype(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    if (args.activation == Activation::identity) {
      multiply_dz<T>(args, args.dy, context);
    } else {
      launch("linear_backward dz", dz_kernel<T>, ceil_div(args.B, kWarp) * ceil_div(args.O, kWarp),
             kThreads, context, args.dy, args.s, static_cast<T*>(args.dz), args.B, args.O,
             args.activation);
      multiply_dz<T>(args, {args.dz, args.O, 1}, context);
    }
  });
}

void activation_double_backward(const ActivationDoubleBackwardArgs& args, Context context) {
  for_dtype(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    launch("activation_double_backward", activation_double_backward_kernel<T>,
           ceil_div(args.n, kThreads), kThreads, context, static_cast<const T*>(args.q),
           static_cast<const T*>(args.dy), static_cast<const T*>(args.s), static_cast<T*>(args.gdy),
           static_cast<T*>(args.gz), static_cast<T*>(args.dz), args.n, args.activation);
  });
}

}  // namespace gdext::cuda
