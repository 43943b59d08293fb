// mma and ldmatrix, against loops over the matrices. The kernels place fragments element by
// element, by the PTX ISA's tables.
#include "cuda/ptx.cuh"
#include "device.h"

namespace gdext::cuda::primitives {
namespace {

constexpr int kM = 16, kN = 8;

// C = A B + C for A [16,K] and B [K,8], one warp.
__global__ void tf32_kernel(const float* a, const float* b, float* c) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  constexpr int kK = 8;
  uint32_t a_fragment[4], b_fragment[2];
  float sum[4];
  for (int i = 0; i < 4; ++i)
    a_fragment[i] = ptx::to_tf32(a[(g + 8 * (i % 2)) * kK + t + 4 * (i / 2)]);
  for (int i = 0; i < 2; ++i) b_fragment[i] = ptx::to_tf32(b[(t + 4 * i) * kN + g]);
  for (int i = 0; i < 4; ++i) sum[i] = c[(g + 8 * (i / 2)) * kN + 2 * t + i % 2];
  ptx::mma_m16n8k8_tf32(sum, a_fragment, b_fragment, sum);
  for (int i = 0; i < 4; ++i) c[(g + 8 * (i / 2)) * kN + 2 * t + i % 2] = sum[i];
}

// The same with operands that ldmatrix fetches: A as it lies, B [K,8] transposed.
template <class T>
__global__ void half_kernel(const T* a, const T* b, float* c) {
  constexpr int kK = 16;
  __shared__ __align__(16) T a_tile[kM][kK], b_tile[kK][kN];
  const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  for (int i = lane; i < kM * kK; i += kWarp) a_tile[i / kK][i % kK] = a[i];
  for (int i = lane; i < kK * kN; i += kWarp) b_tile[i / kN][i % kN] = b[i];
  __syncthreads();
  uint32_t a_fragment[4], b_fragment[2];
  // Matrices 0 to 3: rows 0 to 7 and 8 to 15 of columns 0 to 7, then of columns 8 to 15.
  ptx::ldmatrix_x4(a_fragment, &a_tile[lane % 16][lane / 16 * 8]);
  ptx::ldmatrix_x2_trans(b_fragment, &b_tile[lane % 16][0]);
  float sum[4];
  for (int i = 0; i < 4; ++i) sum[i] = c[(g + 8 * (i / 2)) * kN + 2 * t + i % 2];
  if constexpr (std::is_same_v<T, bfloat16>)
    ptx::mma_m16n8k16_bf16(sum, a_fragment, b_fragment, sum);
  else
    ptx::mma_m16n8k16_f16(sum, a_fragment, b_fragment, sum);
  for (int i = 0; i < 4; ++i) c[(g + 8 * (i / 2)) * kN + 2 * t + i % 2] = sum[i];
}

// m16n8k8 of float16, its fragments element by element.
__global__ void half_k8_kernel(const float16* a, const float16* b, float* c) {
  constexpr int kK = 8;
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  const auto pair = [](float16 low, float16 high) {
    return low.bits | static_cast<uint32_t>(high.bits) << 16;
  };
  uint32_t a_fragment[2];
  for (int i = 0; i < 2; ++i)
    a_fragment[i] = pair(a[(g + 8 * i) * kK + 2 * t], a[(g + 8 * i) * kK + 2 * t + 1]);
  const uint32_t b_fragment = pair(b[2 * t * kN + g], b[(2 * t + 1) * kN + g]);
  float sum[4];
  for (int i = 0; i < 4; ++i) sum[i] = c[(g + 8 * (i / 2)) * kN + 2 * t + i % 2];
  ptx::mma_m16n8k8_f16(sum, a_fragment, b_fragment, sum);
  for (int i = 0; i < 4; ++i) c[(g + 8 * (i / 2)) * kN + 2 * t + i % 2] = sum[i];
}

// A [8,4], B [4,8].
__global__ void f64_kernel(const double* a, const double* b, double* c) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  double sum[2] = {c[g * 8 + 2 * t], c[g * 8 + 2 * t + 1]};
  ptx::mma_m8n8k4_f64(sum, a[g * 4 + t], b[t * 8 + g], sum);
  c[g * 8 + 2 * t] = sum[0];
  c[g * 8 + 2 * t + 1] = sum[1];
}

// The transposes of four matrices, stored row by row; and two as they lie.
__global__ void transpose_kernel(const uint16_t* in, uint32_t* transposed, uint32_t* plain) {
  __shared__ __align__(16) uint16_t tile[4][8][8];
  const int lane = threadIdx.x;
  for (int i = lane; i < 4 * 64; i += kWarp) tile[i / 64][i / 8 % 8][i % 8] = in[i];
  __syncthreads();
  uint32_t four[4], two[2];
  ptx::ldmatrix_x4_trans(four, tile[lane / 8][lane % 8]);
  ptx::ldmatrix_x2(two, tile[lane / 8 % 2][lane % 8]);
  for (int m = 0; m < 4; ++m) transposed[m * kWarp + lane] = four[m];
  for (int m = 0; m < 2; ++m) plain[m * kWarp + lane] = two[m];
}

template <class T, class C>
std::vector<C> product(const std::vector<T>& a, const std::vector<T>& b, std::vector<C> c, int M,
                       int N, int K) {
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < N; ++n)
      for (int k = 0; k < K; ++k)
        c[m * N + n] += static_cast<C>(static_cast<acc_t<T>>(a[m * K + k])) *
                        static_cast<C>(static_cast<acc_t<T>>(b[k * N + n]));
  return c;
}

template <class T, class C>
void check(const char* name, void (*kernel)(const T*, const T*, C*), int M, int N, int K) {
  const auto a = small_integers<T>(M * K), b = small_integers<T>(K * N);
  const auto c = small_integers<C>(M * N);
  OnDevice<T> a_device(a), b_device(b);
  OnDevice<C> c_device(c);
  launch(name, kernel, 1, kWarp, {}, a_device.data(), b_device.data(), c_device.data());
  expect_all(name, c_device.read(), product(a, b, c, M, N, K));
}

void test_ldmatrix() {
  std::vector<uint16_t> in(4 * 64);
  for (uint16_t& v : in) v = static_cast<uint16_t>(rng());
  OnDevice<uint16_t> in_device(in);
  OnDevice<uint32_t> transposed(4 * kWarp), plain(2 * kWarp);
  launch("transpose", transpose_kernel, 1, kWarp, {}, in_device.data(), transposed.data(),
         plain.data());
  // Lane l holds row l / 4, elements 2 (l % 4) and the next, so the registers lie in row order.
  std::vector<uint32_t> want, want_plain;
  const auto pair = [](uint16_t low, uint16_t high) { return low | uint32_t{high} << 16; };
  for (int m = 0; m < 4; ++m)
    for (int r = 0; r < 8; ++r)
      for (int c = 0; c < 8; c += 2) {
        const uint16_t* matrix = &in[64 * m];
        want.push_back(pair(matrix[8 * c + r], matrix[8 * (c + 1) + r]));
        if (m < 2) want_plain.push_back(pair(matrix[8 * r + c], matrix[8 * r + c + 1]));
      }
  expect_all("ldmatrix, transposed", transposed.read(), want);
  expect_all("ldmatrix", plain.read(), want_plain);
}

__global__ void round_kernel(const float* in, uint32_t* out) {
  out[threadIdx.x] = ptx::to_tf32(in[threadIdx.x]);
}

void test_rounding() {
  const std::vector<float> in{1, 1 + 0x1p-11f, 1 + 0x1p-12f,           -1 - 0x1p-11f, 0x1p-126f,
                              0, -0.0f,        1 + 0x1p-11f + 0x1p-23f};
  const std::vector<uint32_t> want{0x3f800000, 0x3f802000, 0x3f800000, 0xbf802000,
                                   0x00800000, 0,          0x80000000, 0x3f802000};
  OnDevice<float> in_device(in);
  OnDevice<uint32_t> out(in.size());
  launch("round", round_kernel, 1, static_cast<int>(in.size()), {}, in_device.data(), out.data());
  expect_all("to_tf32", out.read(), want);
}

}  // namespace

void test_mma() {
  check("mma tf32", tf32_kernel, kM, kN, 8);
  check("mma bf16", half_kernel<bfloat16>, kM, kN, 16);
  check("mma f16", half_kernel<float16>, kM, kN, 16);
  check("mma f16 k8", half_k8_kernel, kM, kN, 8);
  check("mma f64", f64_kernel, 8, 8, 4);
  test_ldmatrix();
  test_rounding();
}

}  // namespace gdext::cuda::primitives
