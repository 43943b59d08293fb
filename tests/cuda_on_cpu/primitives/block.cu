// Barriers, shared memory, atomics and vector loads of one block.
#include "cuda/ptx.cuh"
#include "device.h"

namespace gdext::cuda::primitives {
namespace {

// out = in, each run of blockDim.x reversed, through static shared memory.
__global__ void reverse_kernel(const int* in, int* out) {
  __shared__ int held[256];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x;
  held[threadIdx.x] = in[first + threadIdx.x];
  __syncthreads();
  out[first + threadIdx.x] = held[blockDim.x - 1 - threadIdx.x];
}

void test_static_shared() {
  constexpr int kBlocks = 5, kCount = 256;
  const auto in = small_integers<int>(kBlocks * kCount);
  OnDevice<int> in_device(in), out(in.size());
  launch("reverse", reverse_kernel, kBlocks, kCount, {}, in_device.data(), out.data());
  std::vector<int> want;
  for (int b = 0; b < kBlocks; ++b)
    want.insert(want.end(), in.rend() - (b + 1) * kCount, in.rend() - b * kCount);
  expect_all("reverse", out.read(), want);
}

// The sums of runs of blockDim.x numbers, by a tree in dynamic shared memory; `stride` spreads it
// over more than 48 KB.
__global__ void tree_kernel(const float* in, float* out, int stride) {
  float* held = reinterpret_cast<float*>(ptx::dynamic_shared());
  held[threadIdx.x * stride] = in[blockIdx.x * blockDim.x + threadIdx.x];
  for (int distance = blockDim.x / 2; distance > 0; distance /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < distance)
      held[threadIdx.x * stride] += held[(threadIdx.x + distance) * stride];
  }
  if (threadIdx.x == 0) out[blockIdx.x] = held[0];
}

void test_dynamic_shared() {
  constexpr int kBlocks = 3, kCount = 128;
  const auto in = small_integers<float>(kBlocks * kCount);
  for (int stride : {1, 200}) {
    OnDevice<float> in_device(in), out(kBlocks);
    launch("tree", tree_kernel,
           {.blocks = kBlocks,
            .threads = kCount,
            .dynamic_shared = ((kCount - 1) * stride + 1) * sizeof(float)},
           {}, in_device.data(), out.data(), stride);
    std::vector<float> want(kBlocks);
    for (size_t i = 0; i < in.size(); ++i) want[i / kCount] += in[i];
    expect_all("tree", out.read(), want);
  }
}

// Each warp in turn hands a number to the next, by barriers of 64 threads.
__global__ void relay_kernel(int* out) {
  __shared__ int baton;
  const int warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp, lane = threadIdx.x % kWarp;
  if (warp > 0) ptx::barrier_sync(warp, 2 * kWarp);
  if (lane == 0) {
    baton = warp == 0 ? 1 : 3 * baton + warp;
    out[warp] = baton;
  }
  __syncwarp();
  if (warp + 1 < warps) ptx::barrier_arrive(warp + 1, 2 * kWarp);
}

__global__ void count_kernel(const int* in, int* out) {
  out[3 * threadIdx.x] = __syncthreads_count(in[threadIdx.x] > 0);
  out[3 * threadIdx.x + 1] = __syncthreads_or(in[threadIdx.x] > 3) != 0;
  out[3 * threadIdx.x + 2] = __syncthreads_and(in[threadIdx.x] > 0) != 0;
}

void test_barriers() {
  constexpr int kWarps = 4, kCount = 70;
  OnDevice<int> out(kWarps);
  launch("relay", relay_kernel, 1, kWarps * kWarp, {}, out.data());
  expect_all("relay", out.read(), {1, 4, 14, 45});

  auto in = small_integers<int>(kCount);
  in[0] = 0;  // so that not all are positive
  OnDevice<int> in_device(in), counts(3 * kCount);
  launch("count", count_kernel, 1, kCount, {}, in_device.data(), counts.data());
  int positive = 0, any = 0;
  for (int v : in) positive += v > 0, any |= v > 3;
  std::vector<int> want;
  for (int t = 0; t < kCount; ++t) want.insert(want.end(), {positive, any, 0});
  expect_all("count", counts.read(), want);
}

// All blocks add to the same numbers; the last to finish, and it alone, sees all of them.
__global__ void atomics_kernel(const int* in, int* sums, float* float_sum, unsigned* finished) {
  __shared__ bool last;
  const int v = in[blockIdx.x * blockDim.x + threadIdx.x];
  atomicAdd(&sums[0], v);
  atomicMax(&sums[1], v);
  atomicMin(&sums[2], v);
  atomicAdd(float_sum, static_cast<float>(v));
  int seen = sums[3], expected;  // one product more, by compare and swap
  do {
    expected = seen;
    seen = atomicCAS(&sums[3], expected, (expected * 3 + 1) % 1000);
  } while (seen != expected);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicInc(finished, gridDim.x - 1) == gridDim.x - 1;
  __syncthreads();
  if (last && threadIdx.x == 0) sums[4] = atomicExch(&sums[0], 0);
}

void test_atomics() {
  constexpr int kBlocks = 4, kCount = 40;
  const auto in = small_integers<int>(kBlocks * kCount);
  OnDevice<int> in_device(in), sums(std::vector<int>{0, -100, 100, 1, 0});
  OnDevice<float> float_sum(std::vector<float>{0});
  OnDevice<unsigned> finished(std::vector<unsigned>{0});
  launch("atomics", atomics_kernel, kBlocks, kCount, {}, in_device.data(), sums.data(),
         float_sum.data(), finished.data());
  std::vector<int> want{0, -100, 100, 1, 0};
  for (int v : in) {
    want[1] = std::max(want[1], v), want[2] = std::min(want[2], v), want[4] += v;
    want[3] = (want[3] * 3 + 1) % 1000;
  }
  expect_all("atomics", sums.read(), want);
  expect_all("atomic float", float_sum.read(), {static_cast<float>(want[4])});
  expect_all("finished", finished.read(), {0u});
}

// out = 2 in; n need not be a multiple of 4.
__global__ void vector_kernel(const float* in, float* out, int n) {
  const int i = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
  if (i + 4 <= n) {
    float4 v = *reinterpret_cast<const float4*>(in + i);
    v.x *= 2, v.y *= 2, v.z *= 2, v.w *= 2;
    *reinterpret_cast<float4*>(out + i) = v;
  } else {
    for (int j = i; j < n; ++j) out[j] = 2 * in[j];
  }
}

void test_vectors() {
  for (int n : {1, 64, 67, 130}) {
    const auto in = small_integers<float>(n);
    OnDevice<float> in_device(in), out(n);
    launch("vector", vector_kernel, ceil_div(n, 4 * kWarp), kWarp, {}, in_device.data(), out.data(),
           n);
    std::vector<float> want;
    for (float v : in) want.push_back(2 * v);
    expect_all("vectors", out.read(), want);
  }
}

}  // namespace

void test_block() {
  test_static_shared();
  test_dynamic_shared();
  test_barriers();
  test_atomics();
  test_vectors();
}

}  // namespace gdext::cuda::primitives
