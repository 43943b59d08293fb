// Shuffles, votes, matches and reductions, against loops over the lanes.
#include <cooperative_groups.h>

#include <algorithm>

#include "device.h"

namespace gdext::cuda::primitives {
namespace {

enum Kind { kIndex, kUp, kDown, kXor, kKinds };

template <class T>
__global__ void shuffle_kernel(const T* in, T* out, int kind, int argument, int width) {
  const int t = threadIdx.x;
  const T value = in[t];
  T result = value;
  if (kind == kIndex) result = __shfl_sync(0xffffffffu, value, argument, width);
  if (kind == kUp) result = __shfl_up_sync(0xffffffffu, value, argument, width);
  if (kind == kDown) result = __shfl_down_sync(0xffffffffu, value, argument, width);
  if (kind == kXor) result = __shfl_xor_sync(0xffffffffu, value, argument, width);
  out[t] = result;
}

template <class T>
void test_shuffle() {
  constexpr int kCount = 96;
  const auto in = small_integers<T>(kCount);
  OnDevice<T> in_device(in);
  for (int kind = 0; kind < kKinds; ++kind)
    for (int width = 1; width <= kWarp; width *= 2)
      for (int argument : {0, 1, 3, 7, 16, 31}) {
        if (kind == kXor && argument >= width) continue;
        OnDevice<T> out(kCount);
        launch("shuffle", shuffle_kernel<T>, 1, kCount, {}, in_device.data(), out.data(), kind,
               argument, width);
        std::vector<T> want(kCount);
        for (int t = 0; t < kCount; ++t) {
          const int begin = t / width * width, lane = t - begin;
          int source = kind == kIndex  ? argument % width
                       : kind == kUp   ? lane - argument
                       : kind == kDown ? lane + argument
                                       : lane ^ argument;
          if (source < 0 || source >= width) source = lane;
          want[t] = in[begin + source];
        }
        expect_all("shuffle " + std::to_string(kind), out.read(), want);
      }
}

// Odd lanes among themselves, even lanes among themselves.
__global__ void vote_kernel(const int* in, unsigned* out) {
  const int t = threadIdx.x;
  const unsigned mask = t % 2 ? 0xaaaaaaaau : 0x55555555u;
  unsigned* mine = out + 8 * t;
  mine[0] = __ballot_sync(mask, in[t] > 0);
  mine[1] = __any_sync(mask, in[t] > 3);
  mine[2] = __all_sync(mask, in[t] > -4);
  mine[3] = __shfl_sync(mask, in[t], (t + 2) % kWarp);
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 700
  mine[4] = __match_any_sync(mask, in[t]);
  int all = 0;
  mine[5] = __match_all_sync(mask, in[t] > 100 ? 1 : 0, &all) + all;
#endif
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  mine[6] = __reduce_add_sync(mask, in[t]);
  mine[7] = __reduce_max_sync(mask, in[t]) - __reduce_min_sync(mask, in[t]) +
            __reduce_xor_sync(mask, static_cast<unsigned>(in[t]));
#endif
  __syncwarp(mask);
}

void test_votes() {
  const auto in = small_integers<int>(kWarp);
  OnDevice<int> in_device(in);
  OnDevice<unsigned> out(8 * kWarp);
  launch("vote", vote_kernel, 1, kWarp, {}, in_device.data(), out.data());
  std::vector<unsigned> want(8 * kWarp);
  for (int t = 0; t < kWarp; ++t) {
    unsigned* mine = &want[8 * t];
    int least = 100, most = -100, sum = 0;
    unsigned exclusive = 0, lanes = 0;
    mine[2] = 1;
    for (int l = t % 2; l < kWarp; l += 2) {
      mine[0] |= unsigned{in[l] > 0} << l;
      mine[1] |= in[l] > 3;
      mine[2] &= in[l] > -4;
      mine[4] |= unsigned{in[l] == in[t]} << l;
      lanes |= 1u << l;
      least = std::min(least, in[l]), most = std::max(most, in[l]), sum += in[l];
      exclusive ^= static_cast<unsigned>(in[l]);
    }
    mine[3] = in[(t + 2) % kWarp];
    mine[5] = lanes + 1;
    mine[6] = sum;
    mine[7] = most - least + exclusive;
  }
  expect_all("votes", out.read(), want);
}

// A reduction by tiles of 8, in a block whose last warp is not full.
__global__ void tile_kernel(const float* in, float* out) {
  namespace cg = cooperative_groups;
  const auto tile = cg::tiled_partition<8>(cg::this_thread_block());
  float sum = in[threadIdx.x];
  for (unsigned distance = 4; distance > 0; distance /= 2) sum += tile.shfl_xor(sum, distance);
  if (tile.thread_rank() == 0) out[threadIdx.x / 8] = sum;
}

void test_tiles() {
  constexpr int kCount = 48;
  const auto in = small_integers<float>(kCount);
  OnDevice<float> in_device(in), out(kCount / 8);
  launch("tile", tile_kernel, 1, kCount, {}, in_device.data(), out.data());
  std::vector<float> want(kCount / 8);
  for (int i = 0; i < kCount; ++i) want[i / 8] += in[i];
  expect_all("tiles", out.read(), want);
}

}  // namespace

void test_warp() {
  test_shuffle<int>();
  test_shuffle<float>();
  test_shuffle<double>();
  test_votes();
  test_tiles();
}

}  // namespace gdext::cuda::primitives
