// Which kernel gemm chooses, how many blocks share a tile, and whose code a device runs. Nothing is
// launched.
#include "cuda/gemm.cuh"
#include "harness.h"

namespace gdext::test {
namespace {

using cuda::GemmKernel;

void check_parts() {
  begin_case("gemm, parts of k");
  const auto expect = [](int64_t tiles, int64_t K, int multiprocessors, int want) {
    ++compared;
    const int got = cuda::parts_of_k(tiles, K, 128, multiprocessors);
    if (got != want)
      fail("got " + std::to_string(got) + ", wanted " + std::to_string(want) + " for " +
           std::to_string(tiles) + " tiles, K " + std::to_string(K));
  };
  expect(104, 4096, 132, 2);
  expect(64, 4096, 132, 4);
  expect(66, 4096, 132, 4);
  expect(67, 4096, 132, 2);
  expect(4, 4096, 132, 8);
  expect(4, 784, 132, 4);
  expect(4, 255, 132, 1);
  expect(4, 256, 132, 2);
  expect(133, 4096, 132, 1);
  expect(64, 4096, 0, 1);  // no clusters
  expect(0, 4096, 132, 8);
  expect(int64_t{1} << 40, int64_t{1} << 40, 132, 1);
}

void check_choice() {
  begin_case("gemm choice");
  const Matrix a{nullptr, 4096, 1}, b{nullptr, 1, 4096}, sparse{nullptr, 4096, 2};
  const auto choice = [&]<class T>(T, int64_t M, int64_t N, int capability, bool tf32 = false,
                                   int64_t K = 4096) {
    return cuda::choose_gemm_kernel<T>(a, b, M, N, K, capability, tf32);
  };
  const auto expect = [](GemmKernel got, GemmKernel want) {
    ++compared;
    if (got != want)
      fail("got " + std::to_string(int(got)) + ", wanted " + std::to_string(int(want)));
  };
  constexpr int64_t kMany = 4096;
  expect(choice(float{}, kMany, kMany, 75, true), GemmKernel::plain);
  expect(choice(bfloat16{}, kMany, kMany, 75), GemmKernel::plain);
  expect(choice(double{}, kMany, kMany, 75), GemmKernel::plain);
  expect(choice(float16{}, kMany, kMany, 75), GemmKernel::mma_sm75);
  expect(choice(float16{}, 64, 64, 75), GemmKernel::mma_sm75);
  expect(choice(float16{}, 16, kMany, 75), GemmKernel::skinny);
  expect(choice(float16{}, kMany, kMany, 70), GemmKernel::plain);
  expect(choice(float16{}, kMany, kMany, 80), GemmKernel::mma_large);
  expect(choice(bfloat16{}, 128, 128, 120), GemmKernel::mma_small);
  expect(choice(bfloat16{}, kMany, kMany, 90), GemmKernel::wgmma);
  expect(choice(float16{}, 1024, 1024, 90), GemmKernel::wgmma);  // each tile by 4 blocks
  expect(choice(float16{}, 1024, 1024, 90, false, 1000), GemmKernel::mma_small);
  expect(choice(bfloat16{}, 128, 128, 90), GemmKernel::mma_small);
  expect(choice(float{}, kMany, kMany, 80), GemmKernel::split);
  expect(choice(float{}, 128, 128, 90), GemmKernel::plain);
  expect(choice(float{}, kMany, kMany, 86), GemmKernel::plain);
  expect(choice(float{}, kMany, kMany, 86, true), GemmKernel::mma_large);
  expect(choice(float{}, 128, 128, 90, true), GemmKernel::mma_small);
  expect(choice(float{}, kMany, kMany, 90, true), GemmKernel::wgmma);
  expect(choice(float{}, kMany, 1024, 90, true, 64), GemmKernel::wgmma);
  expect(choice(float{}, 1024, 1024, 90, true), GemmKernel::wgmma);
  expect(choice(float{}, 1024, 1024, 90, true, 500), GemmKernel::mma_small);
  expect(choice(double{}, kMany, kMany, 89), GemmKernel::plain);
  expect(choice(double{}, kMany, kMany, 90), GemmKernel::mma_small);
  expect(choice(double{}, 16, kMany, 90), GemmKernel::skinny);
  expect(choice(float{}, kMany, 10, 75), GemmKernel::skinny);
  expect(cuda::choose_gemm_kernel<float>(sparse, b, kMany, 10, 4096, 75, false), GemmKernel::plain);
}

// A device that runs code for an older one has no more instructions than that.
void check_code() {
  begin_case("capability of the code");
  const auto expect = [](std::string_view archs, int device, int want) {
    ++compared;
    const int got = cuda::code_capability(archs, device);
    if (got != want) fail(std::string(archs) + ": got " + std::to_string(got));
  };
  constexpr std::string_view kDefault = "7.5 8.0 8.6 9.0a 10.0 12.0+PTX";
  expect(kDefault, 75, 75);
  expect(kDefault, 80, 80);
  expect(kDefault, 89, 86);
  expect(kDefault, 90, 90);
  expect(kDefault, 103, 100);
  expect(kDefault, 121, 120);
  expect("8.0+PTX", 90, 80);
  expect("7.5+PTX 9.0a", 86, 75);
  expect("8.0+PTX 9.0a+PTX", 120, 80);
  expect("8.0 9.0+PTX", 120, 90);
  expect("a list that names none", 90, 90);
}

}  // namespace

void test_gemm_choice() {
  check_choice();
  check_code();
  check_parts();
}

}  // namespace gdext::test
