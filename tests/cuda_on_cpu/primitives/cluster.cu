// Clusters, the shared memory of their blocks, and grids whose blocks wait for each other.
#include <cooperative_groups.h>

#include "cuda/ptx.cuh"
#include "device.h"

namespace gdext::cuda::primitives {
namespace {

// Each block gathers from all blocks of its cluster, and writes into the next one: through static
// and dynamic shared memory.
__global__ void ring_kernel(const int* in, int* out) {
  __shared__ int mine[kWarp];
  __shared__ int from_previous[kWarp];
  int* dynamic = reinterpret_cast<int*>(ptx::dynamic_shared());
  const unsigned rank = ptx::cluster_rank(), blocks = ptx::cluster_blocks();
  const int t = threadIdx.x, at = blockIdx.x * kWarp + t;
  mine[t] = in[at];
  dynamic[t] = 10 * in[at];
  ptx::cluster_sync();
  int sum = 0;
  for (unsigned other = 0; other < blocks; ++other)
    sum += ptx::map_shared_rank(mine, other)[(t + other) % kWarp] +
           ptx::map_shared_rank(dynamic, other)[t];
  ptx::map_shared_rank(from_previous, (rank + 1) % blocks)[t] = sum;
  ptx::cluster_arrive();
  sum += 1;  // something of its own between the two halves of the barrier
  ptx::cluster_wait();
  out[2 * at] = sum;
  out[2 * at + 1] = from_previous[t];
}

void check_ring(int blocks, int cluster) {
  const auto in = small_integers<int>(blocks * kWarp);
  OnDevice<int> in_device(in), out(2 * in.size());
  launch("ring", ring_kernel,
         {.blocks = blocks,
          .threads = kWarp,
          .dynamic_shared = kWarp * sizeof(int),
          .cluster = cluster},
         {}, in_device.data(), out.data());
  const auto sum_of = [&](int block, int t) {
    const int first = block / cluster * cluster;
    int sum = 0;
    for (int other = 0; other < cluster; ++other)
      sum +=
          in[(first + other) * kWarp + (t + other) % kWarp] + 10 * in[(first + other) * kWarp + t];
    return sum;
  };
  std::vector<int> want;
  for (int b = 0; b < blocks; ++b)
    for (int t = 0; t < kWarp; ++t) want.insert(want.end(), {sum_of(b, t) + 1, sum_of(b, t)});
  expect_all("ring of " + std::to_string(cluster), out.read(), want);
}

// Each phase adds each block's left neighbour to it.
__global__ void phases_kernel(int* a, int* b, int phases) {
  const int blocks = gridDim.x, me = blockIdx.x;
  for (int p = 0; p < phases; ++p) {
    int* from = p % 2 ? b : a;
    int* to = p % 2 ? a : b;
    if (threadIdx.x == 0) to[me] = from[me] + from[(me + blocks - 1) % blocks];
    cooperative_groups::this_grid().sync();
  }
}

}  // namespace

void test_cluster() {
  for (int cluster : {1, 2, 4, 8, 16}) check_ring(2 * cluster, cluster);
}

void test_grid() {
  constexpr int kBlocks = 6, kPhases = 4;
  auto want = small_integers<int>(kBlocks);
  OnDevice<int> a(want), b(kBlocks);
  launch("phases", phases_kernel, {.blocks = kBlocks, .threads = 40, .cooperative = true}, {},
         a.data(), b.data(), kPhases);
  for (int p = 0; p < kPhases; ++p) {
    const auto before = want;
    for (int i = 0; i < kBlocks; ++i) want[i] += before[(i + kBlocks - 1) % kBlocks];
  }
  expect_all("phases", a.read(), want);
}

}  // namespace gdext::cuda::primitives
