// How tensor cores multiply a 16 x 16 block of C's operands: one struct for each kind of accuracy.
//
// Each has Element, what the operands hold; Factor, what a fragment of 16 lines becomes before it
// is multiplied; and multiply(), which adds the product of two of them. Of the block's sum a lane
// holds, with g = lane / 4 and t = lane % 4, at [i][j] the element
// (g + 8 (j / 2), 8 i + 2 t + j % 2).
// kArchFrom, kArchBelow: the __CUDA_ARCH__ where it may be chosen (gemm.cuh), and is compiled.
// kBlocksAtOnce: of the large tile, what registers allow on a multiprocessor without spills.
// kRounds: whether operands are rounded, and sums may overflow for it (make_tile).
// kAsync: whether tiles come by asynchronous copies.
#pragma once
#include "cuda/gemm_operand.cuh"

namespace gdext::cuda {

constexpr int kNoArch = 1 << 20;
template <class A>
using BlockSum = A[2][4];

// 16-bit types: products are exact in float32, in which they are added.
template <class T>
struct Half {
  using Element = T;
  using Factor = Fragment<T>;
  static constexpr int kArchFrom = 800, kArchBelow = kNoArch;
  static constexpr int kBlocksAtOnce = 2;
  static constexpr bool kRounds = false, kAsync = true;

  __device__ static Factor factor(const Fragment<T>& fragment) { return fragment; }
  __device__ static void multiply(BlockSum<float>& sum, const Factor& a, const Factor& b) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t columns[2] = {b.r[i], b.r[i + 2]};
      if constexpr (std::is_same_v<T, bfloat16>)
        ptx::mma_m16n8k16_bf16(sum[i], a.r, columns, sum[i]);
      else
        ptx::mma_m16n8k16_f16(sum[i], a.r, columns, sum[i]);
    }
  }
};

// float16 as sm_75 has it: 8 products of k at a time, the two halves of a fragment.
struct HalfOfSm75 {
  using Element = float16;
  using Factor = Fragment<float16>;
  static constexpr int kArchFrom = 750, kArchBelow = 800;
  static constexpr int kBlocksAtOnce = 2;
  static constexpr bool kRounds = false, kAsync = false;

  __device__ static Factor factor(const Fragment<float16>& fragment) { return fragment; }
  __device__ static void multiply(BlockSum<float>& sum, const Factor& a, const Factor& b) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t rows[2] = {a.r[2 * half], a.r[2 * half + 1]};
#pragma unroll
      for (int i = 0; i < 2; ++i) ptx::mma_m16n8k8_f16(sum[i], rows, b.r[2 * half + i], sum[i]);
    }
  }
};

// float32 rounded to tf32, 11 significant bits, as torch.backends.cuda.matmul.allow_tf32 permits.
struct Tf32 {
  using Element = float;
  using Factor = Fragment<float>;
  static constexpr int kArchFrom = 800, kArchBelow = kNoArch;
  static constexpr int kBlocksAtOnce = 2;
  static constexpr bool kRounds = true, kAsync = true;

  __device__ static Factor factor(const Fragment<float>& fragment) {
    Factor factor;
#pragma unroll
    for (int i = 0; i < 4; ++i) factor.r[i] = ptx::to_tf32(__uint_as_float(fragment.r[i]));
    return factor;
  }
  __device__ static void multiply(BlockSum<float>& sum, const Factor& a, const Factor& b) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t columns[2] = {b.r[i], b.r[i + 2]};
      ptx::mma_m16n8k8_tf32(sum[i], a.r, columns, sum[i]);
    }
  }
};

// float32 as the sum of two tf32, x = high + low + O(2^-22 x); of the four products the least,
// low low, is left out (Markidis et al., "NVIDIA Tensor Core Programmability, Performance &
// Precision", 2018; Ootomo and Yokota, "Recovering single precision accuracy from Tensor Cores
// while surpassing the FP32 theoretical peak performance", 2022). Tensor cores cut sums off rather
// than round them, an error of one sign: so each holds 8 products of k at most, and float32
// additions make the rest.
struct Tf32Split {
  using Element = float;
  struct Factor {
    uint32_t high[4], low[4];
  };
  static constexpr int kArchFrom = 800, kArchBelow = 1000;
  static constexpr int kBlocksAtOnce = 1;
  static constexpr bool kRounds = true, kAsync = true;

  __device__ static Factor factor(const Fragment<float>& fragment) {
    Factor factor;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float value = __uint_as_float(fragment.r[i]);
      factor.high[i] = ptx::to_tf32(value);
      factor.low[i] = ptx::to_tf32(value - __uint_as_float(factor.high[i]));
    }
    return factor;
  }
  __device__ static void multiply(BlockSum<float>& sum, const Factor& a, const Factor& b) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t high[2] = {b.high[i], b.high[i + 2]}, low[2] = {b.low[i], b.low[i + 2]};
      float part[4] = {};
      ptx::mma_m16n8k8_tf32(part, a.low, high, part);
      ptx::mma_m16n8k8_tf32(part, a.high, low, part);
      ptx::mma_m16n8k8_tf32(part, a.high, high, part);
#pragma unroll
      for (int j = 0; j < 4; ++j) sum[i][j] += part[j];
    }
  }
};

// float64, IEEE's arithmetic throughout.
struct Double {
  using Element = double;
  using Factor = Fragment<double>;
  static constexpr int kArchFrom = 800, kArchBelow = kNoArch;
  static constexpr int kBlocksAtOnce = 2;
  static constexpr bool kRounds = false, kAsync = true;

  __device__ static Factor factor(const Fragment<double>& fragment) { return fragment; }
  __device__ static void multiply(BlockSum<double>& sum, const Factor& a, const Factor& b) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        double part[2] = {sum[i][2 * half], sum[i][2 * half + 1]};
        ptx::mma_m8n8k4_f64(part, a.r[half], b.r[i], part);
        sum[i][2 * half] = part[0];
        sum[i][2 * half + 1] = part[1];
      }
  }
};

}  // namespace gdext::cuda
