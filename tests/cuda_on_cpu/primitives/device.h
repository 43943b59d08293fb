// What the tests of the primitives share. They are CUDA: nvcc compiles them too, and on a GPU they
// say whether the emulation is true.
#pragma once
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "cuda/common.cuh"

// In this namespace the emulation looks for __shared__ variables.
namespace gdext::cuda::primitives {

inline std::mt19937 rng;
inline long compared = 0, failures = 0;

inline void require(cudaError_t error) {
  if (error == cudaSuccess) return;
  fprintf(stderr, "%s\n", cudaGetErrorString(error));
  exit(2);
}

// Device memory; every byte 0xff until it is written.
template <class T>
class OnDevice {
 public:
  explicit OnDevice(size_t n) : n_(n) {
    require(cudaMalloc(&data_, n * sizeof(T)));
    require(cudaMemset(data_, 0xff, n * sizeof(T)));
  }
  explicit OnDevice(const std::vector<T>& values) : OnDevice(values.size()) {
    require(cudaMemcpy(data_, values.data(), n_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  ~OnDevice() { cudaFree(data_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  T* data() { return data_; }
  std::vector<T> read() const {
    std::vector<T> values(n_);
    require(cudaDeviceSynchronize());
    require(cudaMemcpy(values.data(), data_, n_ * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  size_t n_;
  T* data_ = nullptr;
};

template <class T>
void expect_equal(const std::string& what, T got, T want) {
  ++compared;
  if (got == want) return;
  if (++failures <= 20)
    printf("FAIL %s: got %.9g, want %.9g\n", what.c_str(), static_cast<double>(got),
           static_cast<double>(want));
}
template <class T>
void expect_all(const std::string& what, const std::vector<T>& got, const std::vector<T>& want) {
  for (size_t i = 0; i < want.size(); ++i)
    expect_equal(what + "[" + std::to_string(i) + "]", got.at(i), want[i]);
}

// Small integers, whose products and sums every type here holds exactly.
template <class T>
std::vector<T> small_integers(size_t n) {
  std::vector<T> values(n);
  for (T& value : values) value = T(static_cast<float>(static_cast<int>(rng() % 9) - 4));
  return values;
}

void test_warp();
void test_block();
void test_cluster();
void test_grid();
void test_copies();
void test_bulk();
void test_boxes();
void test_mma();
void test_wgmma();

}  // namespace gdext::cuda::primitives
