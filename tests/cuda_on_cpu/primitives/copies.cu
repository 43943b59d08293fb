// Copies that go on beside the threads: cp.async, bulk copies, boxes by tensor maps, mbarriers.
#include "cuda/ptx.cuh"
#include "cuda/tensor_map.cuh"
#include "device.h"

namespace gdext::cuda::primitives {
namespace {

constexpr int kTile = 4 * kWarp;  // floats: 16 bytes for each of a warp's lanes

// out[t] = sum over tiles of in[tile * kTile + t], what lies past n being 0, with two tiles under
// way.
__global__ void async_kernel(const float* in, float* out, int n) {
  __shared__ __align__(16) float tiles[3][kTile];
  const int t = threadIdx.x, count = (n + kTile - 1) / kTile;
  const auto fetch = [&](int tile) {
    const int first = tile * kTile + 4 * t;
    const int left = n - first < 0 ? 0 : n - first < 4 ? n - first : 4;
    ptx::cp_async<16>(&tiles[tile % 3][4 * t], in + (left ? first : 0), 4 * left);
  };
  float sum[4] = {};
  for (int tile = 0; tile < 2; ++tile) {
    if (tile < count) fetch(tile);
    ptx::cp_async_commit();
  }
  for (int tile = 0; tile < count; ++tile) {
    ptx::cp_async_wait<1>();
    __syncthreads();
    if (tile + 2 < count) fetch(tile + 2);
    ptx::cp_async_commit();
    // Not the elements that this thread has copied.
    for (int i = 0; i < 4; ++i) sum[i] += tiles[tile % 3][i * kWarp + t];
  }
  for (int i = 0; i < 4; ++i) out[i * kWarp + t] = sum[i];
}

// The same for whole tiles, which one thread fetches by bulk copies; an mbarrier tells that a tile
// is there, another that all have read it. The result leaves by a bulk copy too.
__global__ void bulk_kernel(const float* in, float* out, int count) {
  constexpr int kStages = 2;
  __shared__ __align__(8) uint64_t full[kStages], empty[kStages];
  float* tiles = reinterpret_cast<float*>(ptx::dynamic_shared());
  const int t = threadIdx.x;
  const auto fetch = [&](int tile) {
    const int stage = tile % kStages;
    ptx::mbarrier_arrive_expect(&full[stage], kTile * sizeof(float));
    ptx::bulk_load(tiles + stage * kTile, in + tile * kTile, kTile * sizeof(float), &full[stage]);
  };
  if (t == 0) {
    for (int s = 0; s < kStages; ++s) {
      ptx::mbarrier_init(&full[s], 1);
      ptx::mbarrier_init(&empty[s], kTile);
    }
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  if (t == 0)
    for (int tile = 0; tile < kStages && tile < count; ++tile) fetch(tile);
  float sum = 0;
  for (int tile = 0; tile < count; ++tile) {
    const int stage = tile % kStages;
    const unsigned parity = tile / kStages % 2;
    ptx::mbarrier_wait(&full[stage], parity);
    sum += tiles[stage * kTile + t];
    ptx::mbarrier_arrive(&empty[stage]);
    if (t == 0 && tile + kStages < count) {
      ptx::mbarrier_wait(&empty[stage], parity);
      fetch(tile + kStages);
    }
  }
  __syncthreads();
  tiles[t] = sum;
  ptx::fence_async();
  __syncthreads();
  if (t == 0) {
    ptx::bulk_store(out, tiles, kTile * sizeof(float));
    ptx::bulk_store_commit();
    ptx::bulk_store_wait<0>();
  }
}

// out = the box of 64 x 64 whose first element is (near, far), by a tensor map.
constexpr int kBox = 64;
__global__ void box_kernel(const __grid_constant__ CUtensorMap map, int near, int far,
                           bfloat16* out) {
  __shared__ __align__(8) uint64_t full;
  unsigned char* box = ptx::dynamic_shared();
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(&full, 1);
    ptx::fence_mbarrier_init();
    ptx::mbarrier_arrive_expect(&full, kBox * kBox * 2);
    ptx::tensor_load(box, map, near, far, &full);
  }
  __syncthreads();
  ptx::mbarrier_wait(&full, 0);
  for (int i = threadIdx.x; i < kBox * kBox; i += kWarp)
    out[i] = *reinterpret_cast<const bfloat16*>(box + ptx::swizzled(2 * i, ptx::Swizzle::bytes128));
}

std::vector<float> sums_of(const std::vector<float>& in) {
  std::vector<float> want(kTile);
  for (size_t i = 0; i < in.size(); ++i) want[i % kTile] += in[i];
  return want;
}

}  // namespace

void test_copies() {
  for (int n : {1, 127, 128, 130, 700}) {
    const auto in = small_integers<float>(n);
    OnDevice<float> in_device(in), out(kTile);
    launch("async", async_kernel, 1, kWarp, {}, in_device.data(), out.data(), n);
    expect_all("async of " + std::to_string(n), out.read(), sums_of(in));
  }
}

void test_bulk() {
  for (int count : {1, 2, 3, 7}) {
    const auto in = small_integers<float>(count * kTile);
    OnDevice<float> in_device(in), out(kTile);
    launch("bulk", bulk_kernel,
           {.blocks = 1, .threads = kTile, .dynamic_shared = 2 * kTile * sizeof(float)}, {},
           in_device.data(), out.data(), count);
    expect_all("bulk of " + std::to_string(count), out.read(), sums_of(in));
  }
}

void test_boxes() {
  constexpr int kNear = 100, kFar = 70, kStride = 104;
  const auto in = small_integers<bfloat16>((kFar - 1) * kStride + kNear);
  OnDevice<bfloat16> in_device(in);
  CUtensorMap map;
  const auto encoded = [&](const bfloat16* data, int near, int far, int stride) {
    return tensor_map<bfloat16>(map, data, near, far, stride, kBox);
  };
  // Empty ones, overlapping rows, addresses and rows that are not aligned.
  for (bool taken :
       {encoded(in_device.data(), 0, kFar, kStride), encoded(in_device.data(), kNear, 0, kStride),
        encoded(in_device.data(), kNear, kFar, 96), encoded(in_device.data() + 1, kNear, 8, 104),
        encoded(in_device.data(), kNear, kFar, 101)})
    expect_equal("box, a map of what there is none for", int{taken}, 0);
  expect_equal("box, a map", int{encoded(in_device.data(), kNear, kFar, kStride)}, 1);
  // Inside, over each edge, and outside.
  for (const auto& [near, far] : {std::pair{0, 0}, {36, 6}, {64, 64}, {-8, -3}, {128, 0}}) {
    std::vector<float> want(kBox * kBox), got;
    for (int i = 0; i < kBox * kBox; ++i) {
      const int x = near + i % kBox, y = far + i / kBox;
      if (x >= 0 && x < kNear && y >= 0 && y < kFar)
        want[i] = static_cast<float>(in[y * kStride + x]);
    }
    OnDevice<bfloat16> out(kBox * kBox);
    launch("box", box_kernel, {.blocks = 1, .threads = kWarp, .dynamic_shared = 2 * kBox * kBox},
           {}, map, near, far, out.data());
    for (bfloat16 value : out.read()) got.push_back(static_cast<float>(value));
    expect_all("box at " + std::to_string(near) + ", " + std::to_string(far), got, want);
  }
}

}  // namespace gdext::cuda::primitives
