// gemm: C[m,n] = sum_k A[m,k] B[k,n], over operands of any strides, with a fused epilogue: a choice
// of kernels, by type, device and shape. The first of these that there is:
//
//   all       an operand read once, gemm_skinny.cuh        M or N of at most 16
//   16 bits   tensor cores, gemm_wgmma_tma.cuh             sm_90 (compiled for 9.0a), much to do
//   16 bits   tensor cores, gemm_mma.cuh                   sm_80 and newer; float16: sm_75
//   float32   rounded to tf32, gemm_wgmma_tf32.cuh         the same, if context.tf32
//   float32   rounded to tf32, gemm_mma.cuh                sm_80 and newer, if context.tf32
//   float32   the same, operands split in two tf32         sm_80 and sm_90, many tiles
//   float64   the same                                     sm_80, sm_90, sm_100
//   all       plain multiply-adds, gemm_plain.cuh          always
//
// On sm_90 and newer the blocks of a cluster share the tiles of a product where these are few and k
// is long: by gemm_cluster.cuh (plain kernel, small tiles of mma), gemm_wgmma.cuh, gemm_skinny.cuh.
//
// Consumer parts (8.6, 8.9, 12.0) do a third of their plain multiply-adds in split tf32, and have
// no float64 tensor cores to speak of.
#pragma once
#include "cuda/gemm_plain.cuh"
#include "cuda/gemm_skinny.cuh"
#include "cuda/gemm_wgmma_tf32.cuh"
#include "cuda/gemm_wgmma_tma.cuh"

namespace gdext::cuda {

// What a product is of a layer, and so how its operands usually lie in memory. Others are read
// element by element. `any` compiles a kernel for each of the three and chooses by the strides.
enum class Product { any, y, dx, dw };

// Each kernel that gemm chooses from; tests name them.
enum class GemmKernel { plain, skinny, mma_sm75, mma_small, mma_large, split, wgmma };

inline bool has_many_large_tiles(int64_t M, int64_t N) {
  return ceil_div(M, LargeMmaTile::kRows) * ceil_div(N, LargeMmaTile::kCols) >= kFewTiles;
}

template <class T>
GemmKernel choose_gemm_kernel(Matrix a, Matrix b, int64_t M, int64_t N, int64_t K, int capability,
                              bool tf32) {
  if (is_skinny(a, b, M, N)) return GemmKernel::skinny;
  if (capability < 80)
    return std::is_same_v<T, float16> && capability >= 75 ? GemmKernel::mma_sm75
                                                          : GemmKernel::plain;
  const bool datacenter = capability == 80 || capability == 90 || capability == 100;
  const bool many = has_many_large_tiles(M, N);
  if constexpr (std::is_same_v<T, double>)
    return datacenter ? GemmKernel::mma_small : GemmKernel::plain;
  if (std::is_same_v<T, float> && !tf32) {
    constexpr int64_t kLong = 64;  // so that a tile's way in and out is worth its arithmetic
    return datacenter && capability < 100 && many && K >= kLong ? GemmKernel::split
                                                                : GemmKernel::plain;
  }
  if (capability == 90 && kHasWgmma && is_worth_wgmma<T>(M, N, K)) return GemmKernel::wgmma;
  return many ? GemmKernel::mma_large : GemmKernel::mma_small;
}

template <class T, Adjacent kA, Adjacent kB, class Epilogue>
void gemm_tensor(GemmKernel kernel, const char* name, Matrix a, Matrix b, int64_t M, int64_t N,
                 int64_t K, Epilogue epilogue, Context context, int parts) {
  const auto run = [&](auto arithmetic, auto tile) {
    gemm_mma<decltype(arithmetic), decltype(tile), kA, kB>(name, a, b, M, N, K, epilogue, context,
                                                           parts);
  };
  // wgmma leaves to mma what it cannot read.
  const bool small = kernel == GemmKernel::mma_small ||
                     (kernel == GemmKernel::wgmma && !has_many_large_tiles(M, N));
  if constexpr (std::is_same_v<T, double>) {
    run(Double{}, SmallMmaTile{});
  } else if constexpr (std::is_same_v<T, float>) {
    if (kernel == GemmKernel::split) return run(Tf32Split{}, LargeMmaTile{});
    if (kernel == GemmKernel::wgmma &&
        gemm_wgmma_tf32<kA, kB>(name, a, b, M, N, K, epilogue, context))
      return;
    small ? run(Tf32{}, SmallMmaTile{}) : run(Tf32{}, LargeMmaTile{});
  } else {
    if (kernel == GemmKernel::wgmma &&
        gemm_wgmma<T, kA, kB>(name, a, b, M, N, K, epilogue, context))
      return;
    if constexpr (std::is_same_v<T, float16>)
      if (kernel == GemmKernel::mma_sm75) return run(HalfOfSm75{}, Sm75MmaTile{});
    small ? run(Half<T>{}, SmallMmaTile{}) : run(Half<T>{}, LargeMmaTile{});
  }
}

// gemm by this kernel, which the device must have. `parts`: how many blocks of a cluster share each
// small tile of mma, or 0 for as many as is worth it; tests name them.
template <class T, Product kProduct = Product::any, class Epilogue>
void gemm_by(GemmKernel kernel, const char* name, Matrix a, Matrix b, int64_t M, int64_t N,
             int64_t K, Epilogue epilogue, Context context, int parts = 0) {
  if (kernel == GemmKernel::plain) return gemm_plain<T, T>(name, a, b, M, N, K, epilogue, context);
  if (kernel == GemmKernel::skinny) return gemm_skinny<T>(name, a, b, M, N, K, epilogue, context);
  const auto tensor = [&](auto a_adjacent, auto b_adjacent) {
    gemm_tensor<T, a_adjacent.value, b_adjacent.value>(kernel, name, a, b, M, N, K, epilogue,
                                                       context, parts);
  };
  const std::integral_constant<Adjacent, Adjacent::along_k> along_k;
  const std::integral_constant<Adjacent, Adjacent::across_lines> across;
  if constexpr (kProduct == Product::y)
    tensor(along_k, along_k);
  else if constexpr (kProduct == Product::dx)
    tensor(along_k, across);
  else if constexpr (kProduct == Product::dw)
    tensor(across, across);
  else if (a.row_stride == 1 && a.col_stride != 1)
    tensor(across, across);
  else if (b.row_stride != 1)
    tensor(along_k, across);
  else
    tensor(along_k, along_k);
}

// For all m < M and n < N calls epilogue(m, n, C[m,n]) on the device, C in their acc_t; K may be
// 0. `a` is [M,K] of TA, `b` is [K,N] of TB.
template <class TA, class TB, Product kProduct = Product::any, class Epilogue>
void gemm(const char* name, Matrix a, Matrix b, int64_t M, int64_t N, int64_t K, Epilogue epilogue,
          Context context) {
  if constexpr (std::is_same_v<TA, TB>) {
    const int of_code = code_capability(),
              capability = of_code < 80 ? of_code : compute_capability();
    gemm_by<TA, kProduct>(choose_gemm_kernel<TA>(a, b, M, N, K, capability, context.tf32), name, a,
                          b, M, N, K, epilogue, context);
  } else {
    gemm_plain<TA, TB>(name, a, b, M, N, K, epilogue, context);
  }
}

}  // namespace gdext::cuda
