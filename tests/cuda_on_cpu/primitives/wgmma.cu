// wgmma, for every swizzle and both ways for a matrix to lie in shared memory. The kernels write
// tiles element by element.
#include "cuda/ptx.cuh"
#include "device.h"

namespace gdext::cuda::primitives {
namespace {

using ptx::Swizzle;

constexpr int kM = 64, kThreadsOfGroup = 128;

// A tile of `rows` rows (or columns) and kDepth of k, of elements of 4 or 2 bytes.
template <class T>
struct SharedTile {
  Swizzle swizzle;
  bool mn_major;
  int rows, depth;

  __device__ int per_line() const { return static_cast<int>(ptx::line_bytes(swizzle) / sizeof(T)); }
  __device__ int across() const { return mn_major ? depth : rows; }
  // From one line's worth along the adjacent dimension to the next: all groups of 8 lines lie
  // between.
  __device__ uint32_t next_line_bytes() const { return across() * ptx::line_bytes(swizzle); }
  __device__ uint32_t group_bytes() const { return 8 * ptx::line_bytes(swizzle); }
  __device__ uint32_t offset(int row, int k) const {
    const int along = mn_major ? row : k, line = mn_major ? k : row;
    return ptx::swizzled(along / per_line() * next_line_bytes() + line * ptx::line_bytes(swizzle) +
                             along % per_line() * sizeof(T),
                         swizzle);
  }
  // The operand from k on.
  __device__ uint64_t descriptor(const unsigned char* tile, int k) const {
    const bool plain = swizzle == Swizzle::none;
    if (mn_major)
      return ptx::matrix_descriptor(tile + k / 8 * group_bytes(), swizzle,
                                    plain ? group_bytes() : next_line_bytes(),
                                    plain ? next_line_bytes() : group_bytes());
    // The swizzle is of the address: within a line, the start moves on unswizzled.
    const uint32_t start = k / per_line() * next_line_bytes() + k % per_line() * sizeof(T);
    return ptx::matrix_descriptor(tile + start, swizzle, next_line_bytes(), group_bytes());
  }
};

// C = A B + C for A [64,K], B [N,K] (both as rows of k), and then A B once more.
template <class T, int kN, int kAIsMnMajor, int kBIsMnMajor>
__global__ void __launch_bounds__(kThreadsOfGroup)
    wgmma_kernel(const T* a, const T* b, float* c, int K, int swizzle) {
  constexpr int kStep = 32 / sizeof(T);
  const SharedTile<T> a_tile{Swizzle(swizzle), kAIsMnMajor != 0, kM, K};
  const SharedTile<T> b_tile{Swizzle(swizzle), kBIsMnMajor != 0, kN, K};
  unsigned char* a_shared = ptx::dynamic_shared();
  unsigned char* b_shared = a_shared + kM * K * sizeof(T);
  for (int i = threadIdx.x; i < kM * K; i += kThreadsOfGroup)
    *reinterpret_cast<T*>(a_shared + a_tile.offset(i / K, i % K)) = a[i];
  for (int i = threadIdx.x; i < kN * K; i += kThreadsOfGroup)
    *reinterpret_cast<T*>(b_shared + b_tile.offset(i / K, i % K)) = b[i];
  ptx::fence_async();
  __syncthreads();

  const int warp = threadIdx.x / kWarp, g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
  float sum[kN / 2];
  const auto at = [&](int r) {
    return (16 * warp + g + 8 * (r % 4 / 2)) * kN + 8 * (r / 4) + 2 * t + r % 2;
  };
#pragma unroll
  for (int r = 0; r < kN / 2; ++r) sum[r] = c[at(r)];
  const auto multiply = [&](bool accumulate) {
    for (int k = 0; k < K; k += kStep) {
      const uint64_t a_at = a_tile.descriptor(a_shared, k), b_at = b_tile.descriptor(b_shared, k);
      if constexpr (std::is_same_v<T, float>)
        ptx::wgmma_tf32(sum, a_at, b_at, accumulate);
      else if constexpr (std::is_same_v<T, bfloat16>)
        ptx::wgmma_bf16<kAIsMnMajor, kBIsMnMajor>(sum, a_at, b_at, accumulate);
      else
        ptx::wgmma_f16<kAIsMnMajor, kBIsMnMajor>(sum, a_at, b_at, accumulate);
      accumulate = true;
    }
    ptx::wgmma_commit();
  };
  ptx::wgmma_fence();
  multiply(true);
  ptx::wgmma_wait<0>();
#pragma unroll
  for (int r = 0; r < kN / 2; ++r) c[at(r)] = sum[r];
  ptx::wgmma_fence();
  multiply(false);
  ptx::wgmma_wait<0>();
#pragma unroll
  for (int r = 0; r < kN / 2; ++r) c[kM * kN + at(r)] = sum[r];
}

template <class T, int kN, int kAIsMnMajor, int kBIsMnMajor>
void check(Swizzle swizzle) {
  // Two lines' worth of either dimension where the tile allows it.
  const int K = 64;
  const auto a = small_integers<T>(kM * K), b = small_integers<T>(kN * K);
  auto c = small_integers<float>(kM * kN);
  std::vector<float> want = c, alone(kM * kN);
  for (int m = 0; m < kM; ++m)
    for (int n = 0; n < kN; ++n)
      for (int k = 0; k < K; ++k)
        alone[m * kN + n] += static_cast<float>(a[m * K + k]) * static_cast<float>(b[n * K + k]);
  for (int i = 0; i < kM * kN; ++i) want[i] += alone[i];
  want.insert(want.end(), alone.begin(), alone.end());
  c.resize(2 * kM * kN);
  OnDevice<T> a_device(a), b_device(b);
  OnDevice<float> c_device(c);
  launch("wgmma", wgmma_kernel<T, kN, kAIsMnMajor, kBIsMnMajor>,
         {.blocks = 1, .threads = kThreadsOfGroup, .dynamic_shared = (kM + kN) * K * sizeof(T)}, {},
         a_device.data(), b_device.data(), c_device.data(), K, static_cast<int>(swizzle));
  expect_all("wgmma of " + std::to_string(sizeof(T)) + " bytes, N " + std::to_string(kN) +
                 ", swizzle " + std::to_string(static_cast<int>(swizzle)) + ", mn-major " +
                 std::to_string(kAIsMnMajor) + std::to_string(kBIsMnMajor),
             c_device.read(), want);
}

}  // namespace

void test_wgmma() {
  for (Swizzle swizzle : {Swizzle::none, Swizzle::bytes32, Swizzle::bytes64, Swizzle::bytes128}) {
    check<float, 64, 0, 0>(swizzle);
    check<bfloat16, 64, 0, 0>(swizzle);
    check<bfloat16, 64, 1, 0>(swizzle);
    check<float16, 128, 0, 1>(swizzle);
    check<float16, 64, 1, 1>(swizzle);
  }
  check<float, 256, 0, 0>(Swizzle::bytes128);
  check<bfloat16, 256, 0, 1>(Swizzle::bytes128);
}

}  // namespace gdext::cuda::primitives
