// usage: cuda_on_cpu f32|f64|bf16|f16 [seed [op]]    checks the ops, or that one, on the dtype
//        cuda_on_cpu trap                            must print the class index and trap
#include <cuda_runtime.h>

#include <cstdlib>
#include <stdexcept>

#include "contract/cross_entropy.h"
#include "contract/linear.h"
#include "contract/mse.h"
#include "contract/sgd.h"
#include "harness.h"

namespace gdext::test {

template <class T>
void test_gemm();
void test_gemm_choice();
void test_peak();
void test_mlp_resident();
void test_mlp_runs();
void test_pinned();
void test_sgd_lists();

namespace {

void launch_mse() {
  float x[3] = {}, t[3] = {}, loss[3], norm;
  double workspace[kWorkspace];
  cuda::mse({DType::f32, Reduction::none, 3, x, t, nullptr, loss, &norm, workspace}, {});
}

void test_launch() {
  begin_case("launch, refused");
  const auto check_message = [](int error, const std::string& want) {
    emulation::next_launch_error = static_cast<cudaError_t>(error);
    std::string message;
    try {
      launch_mse();
    } catch (const std::runtime_error& error) {
      message = error.what();
    }
    if (message != want) fail("threw '" + message + "', wanted '" + want + "'");
    if (cudaGetLastError() != cudaSuccess) fail("left its error to whoever asks next");
  };
  const std::string what = "gdext: CUDA kernel mse: an emulated error";
  constexpr int kIllegalAddress = 700, kUnsupportedPtxVersion = 222;
  check_message(cudaErrorNoKernelImageForDevice,
                what +
                    "; gdext was compiled for an unrecorded list of architectures, device 0 has "
                    "compute capability 9.0");
  check_message(kIllegalAddress,
                what +
                    "; a kernel launched earlier, of any library, may be the one that failed: "
                    "with CUDA_LAUNCH_BLOCKING=1 in the environment it is named");
  check_message(kUnsupportedPtxVersion, what);

  begin_case("launch, of nothing");
  const long before = emulation::launches;
  cuda::linear({DType::f32, Activation::relu, 0, 3, 4, {}, {}, nullptr, nullptr, nullptr}, {});
  cuda::mse_backward({DType::f32, 0, nullptr, 0, nullptr, nullptr, nullptr, nullptr, nullptr}, {});
  cuda::sgd({DType::f32, nullptr, 0, 0.1, nullptr, 0, 0, 0, false, false, nullptr, nullptr}, {});
  if (emulation::launches != before) fail("launched blocks");
}

void trap_on_class_index() {
  float x[2 * 3] = {}, loss, norm, stats[2 * 2];
  const int64_t index[2] = {1, 3};
  double workspace[kWorkspace];
  const CrossEntropyTarget target{index, nullptr, nullptr, -100, 0};
  cuda::cross_entropy(
      {DType::f32, Reduction::mean, 2, 3, 1, x, target, &loss, stats, &norm, workspace}, {});
}

bool run(const std::string& dtype, const std::string& op) {
  bool known = false;
  with_dtype_named(dtype, [&](auto element) {
    auto tests = op_tests<decltype(element)>();
    tests.push_back({"gemm", test_gemm<decltype(element)>});
    tests.push_back({"gemm choice", test_gemm_choice});
    tests.push_back({"launch", test_launch});
    tests.push_back({"peak", test_peak});
    if (std::is_same_v<decltype(element), float>) {
      tests.push_back({"pinned", test_pinned});
      tests.push_back({"sgd_lists", test_sgd_lists});
      tests.push_back({"mlp_runs", test_mlp_runs});
      tests.push_back({"mlp_resident", test_mlp_resident});
    }
    known = run_tests(tests, op);
  });
  return known;
}

}  // namespace
}  // namespace gdext::test

int main(int argc, char** argv) {
  using namespace gdext::test;
  const auto argument = [&](int i, const char* otherwise) {
    return std::string(argc > i ? argv[i] : otherwise);
  };
  const std::string dtype = argument(1, ""), seed = argument(2, "1"), op = argument(3, "");
  if (dtype == "trap") {
    trap_on_class_index();
    return 1;  // not reached
  }
  rng.seed(std::stoul(seed));
  emulation::seed(std::stoul(seed));
  if (!run(dtype, op)) {
    fprintf(stderr, "usage: %s f32|f64|bf16|f16 [seed [op]]\n", argv[0]);
    return 2;
  }
  printf("%s, seed %s: %ld numbers compared in %ld launches, %ld failures\n", dtype.c_str(),
         seed.c_str(), compared, emulation::launches, failures);
  return failures != 0;
}
