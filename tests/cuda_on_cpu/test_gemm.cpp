// Every kernel that gemm chooses from, on the shapes around its tiles' edges. On a GPU gemm's
// choice decides which of them runs; here each is asked for by name.
#include <numeric>
#include <utility>

#include "cuda/gemm.cuh"
#include "harness.h"

namespace gdext::test {
namespace {

using cuda::GemmKernel;

// How a matrix lies in memory. `odd` ones have no row at a multiple of 16 bytes but the first.
enum class Lie { rows, columns, odd_rows, odd_columns, sparse, one_row, one_column, shifted };
constexpr int kLies = 8;

template <class T>
class Lying {
 public:
  Lying(int64_t rows, int64_t cols, Lie lie) {
    const int64_t even = 16 / sizeof(T);  // elements of a piece
    const auto rounded = [&](int64_t n) { return (n + even - 1) / even * even; };
    const bool by_columns = lie == Lie::columns || lie == Lie::odd_columns;
    int64_t far = rounded(by_columns ? rows : cols), near = 1;
    if (lie == Lie::odd_rows || lie == Lie::odd_columns) far += 1;
    if (lie == Lie::sparse) near = 3, far = 3 * cols + 1;
    first_ = lie == Lie::shifted;
    row_ = by_columns ? near : far, col_ = by_columns ? far : near;
    if (lie == Lie::one_row) row_ = 0;
    if (lie == Lie::one_column) row_ = 1, col_ = 0;
    const int64_t last = rows && cols ? (rows - 1) * row_ + (cols - 1) * col_ + 1 : 0;
    // Aligned as on the device, and ends where the matrix does: AddressSanitizer sees beyond.
    if (cudaMalloc(&data_, (first_ + last) * sizeof(T)) != cudaSuccess) abort();
    for (int64_t i = 0; i < first_ + last; ++i)
      data_[i] = from_double<T>(static_cast<double>(rng() % 5) - 2);
  }
  ~Lying() { cudaFree(data_); }
  Lying(const Lying&) = delete;
  Lying& operator=(const Lying&) = delete;

  T& operator()(int64_t r, int64_t c) { return data_[first_ + r * row_ + c * col_]; }
  double operator()(int64_t r, int64_t c) const {
    return value(data_[first_ + r * row_ + c * col_]);
  }
  Matrix view() const { return {data_ + first_, row_, col_}; }

 private:
  int64_t row_, col_, first_;
  T* data_;
};

template <class A>
struct StoreSum {
  A* c;        // [M,N]
  int* times;  // [M,N] that it was called
  int64_t M, N;
  long* outside;

  void operator()(int64_t m, int64_t n, A sum) const {
    if (m < 0 || m >= M || n < 0 || n >= N)
      ++*outside;
    else
      c[m * N + n] = sum, ++times[m * N + n];
  }
};

// c = 3 c + sum, in two halves (gemm_rows.cuh).
template <class A>
struct AddSum {
  A* c;  // [M,N]
  int64_t N;

  A read(int64_t m, int64_t n) const { return 3 * c[m * N + n]; }
  void finish(int64_t m, int64_t n, A sum, A read) const { c[m * N + n] = read + sum; }
  void operator()(int64_t m, int64_t n, A sum) const { finish(m, n, sum, read(m, n)); }
};

// run(a, b, epilogue), whose epilogue must run once for each element of C.
template <class T, class Run>
std::vector<acc_t<T>> product_of(const Lying<T>& a, const Lying<T>& b, int64_t M, int64_t N,
                                 const Run& run) {
  auto c = unwritten<acc_t<T>>(M * N);
  std::vector<int> times(M * N);
  long outside = 0;
  run(a.view(), b.view(), StoreSum<acc_t<T>>{c.data(), times.data(), M, N, &outside});
  if (outside) fail("the epilogue was called outside C");
  for (int64_t i = 0; i < M * N; ++i)
    if (times[i] != 1) {
      fail("the epilogue ran " + std::to_string(times[i]) + " times on element " +
           std::to_string(i));
      break;
    }
  return c;
}

template <class T>
std::vector<acc_t<T>> product(GemmKernel kernel, const Lying<T>& a, const Lying<T>& b, int64_t M,
                              int64_t N, int64_t K, int parts = 0) {
  return product_of(a, b, M, N, [&](Matrix a, Matrix b, auto epilogue) {
    cuda::gemm_by<T>(kernel, "gemm", a, b, M, N, K, epilogue, {}, parts);
  });
}

template <class T, class C>
void expect_product(const Lying<T>& a, const Lying<T>& b, int64_t M, int64_t N, int64_t K,
                    const C& c) {
  std::vector<double> column(K), rows;  // read once
  for (int64_t i = 0; i < M * K; ++i) rows.push_back(a(i / K, i % K));
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t k = 0; k < K; ++k) column[k] = b(k, n);
    for (int64_t m = 0; m < M; ++m) {
      const double want =
          std::inner_product(column.begin(), column.end(), rows.begin() + m * K, 0.0);
      near(c[m * N + n], want, 0, "C", m * N + n);
    }
  }
}

// By an epilogue that reads what it writes.
template <class T>
void check_reading(GemmKernel kernel, int64_t M, int64_t N) {
  begin_case("gemm kernel", int(kernel), "epilogue that reads, M", M, "N", N);
  constexpr int64_t K = 8;
  using A = acc_t<T>;
  const Lying<T> a(M, K, Lie::rows), b(K, N, Lie::rows);
  std::vector<A> c(M * N);
  for (int64_t i = 0; i < M * N; ++i) c[i] = A(i % 89);
  cuda::gemm_by<T>(kernel, "gemm", a.view(), b.view(), M, N, K, AddSum<A>{c.data(), N}, {});
  for (int64_t i = 0; i < M * N; ++i) {
    double want = 3 * (i % 89);
    for (int64_t k = 0; k < K; ++k) want += a(i / N, k) * b(k, i % N);
    near(c[i], want, 0, "C", i);
  }
}

// Of float32's kernels.
bool rounds_to_tf32(GemmKernel kernel) {
  return kernel == GemmKernel::mma_small || kernel == GemmKernel::mma_large ||
         kernel == GemmKernel::wgmma;
}

// Each element of C is one product by 1: the operand rounded to nearest, ties away from zero.
void check_rounding(GemmKernel kernel, Lie lie) {
  begin_case("gemm kernel", int(kernel), "rounding", int(lie));
  constexpr int64_t kSize = 20;
  Lying<float> x(kSize, kSize, lie), one(kSize, kSize, Lie::rows);
  const auto random = randoms<float>(kSize * kSize, -1, 1);
  for (int64_t i = 0; i < kSize * kSize; ++i) {
    x(i / kSize, i % kSize) = i % 7 ? random[i] : random[i] < 0 ? -1 - 0x1p-11f : 1 + 0x1p-11f;
    one(i / kSize, i % kSize) = i / kSize == i % kSize;
  }
  const auto as_a = product(kernel, x, one, kSize, kSize, kSize);
  const auto as_b = product(kernel, one, x, kSize, kSize, kSize);
  for (int64_t i = 0; i < kSize * kSize; ++i) {
    const double value = std::as_const(x)(i / kSize, i % kSize);
    const double last_bit = std::ldexp(1.0, std::ilogb(value) - 10);
    const double want = std::round(value / last_bit) * last_bit;
    near(as_a[i], want, 0, "A", i);
    near(as_b[i], want, 0, "B", i);
  }
}

// 8 threads store 16 bytes each at once: none in another's banks.
template <cuda::Adjacent kAdjacent>
void check_banks() {
  begin_case("banks of the pieces of tf32, adjacent", int(kAdjacent));
  using Pieces = cuda::Tf32Pieces<kAdjacent, 1>;
  std::vector<int> stored(Pieces::Tile::kBlockBytes / cuda::kPiece);
  for (int first = 0; first < Pieces::Tile::kCopying; first += 8)
    for (int i = 0; i < Pieces::kCount; ++i) {
      unsigned banks = 0;
      for (int thread = first; thread < first + 8; ++thread) {
        const auto piece = Pieces::place(thread, i) / cuda::kPiece;
        banks |= 1u << piece % 8, ++stored.at(piece);
      }
      ++compared;
      if (banks != 0xff) fail("conflicts of threads from " + std::to_string(first));
    }
  if (std::count(stored.begin(), stored.end(), 1) != std::ssize(stored))
    fail("not each piece is stored once");
}

// Products of small integers are exact, whatever the kernel.
template <class T>
void check_exact(GemmKernel kernel, int64_t M, int64_t N, int64_t K, Lie a_lie, Lie b_lie,
                 int parts = 0) {
  begin_case("gemm kernel", int(kernel), "M", M, "N", N, "K", K, "lies", int(a_lie), int(b_lie),
             "parts", parts);
  const Lying<T> a(M, K, a_lie), b(K, N, b_lie);
  expect_product(a, b, M, N, K, product(kernel, a, b, M, N, K, parts));
}

// The plain kernel by one of its tiles, shared by so many blocks.
template <class T, class Tile>
void check_plain(int64_t M, int64_t N, int64_t K, Lie a_lie, Lie b_lie, int parts) {
  begin_case("gemm plain tile of", Tile::kRows, "M", M, "N", N, "K", K, "lies", int(a_lie),
             int(b_lie), "parts", parts);
  const Lying<T> a(M, K, a_lie), b(K, N, b_lie);
  expect_product(a, b, M, N, K, product_of(a, b, M, N, [&](Matrix a, Matrix b, auto epilogue) {
                   cuda::gemm_plain_by<Tile, T, T>("gemm", a, b, M, N, K, parts, epilogue, {});
                 }));
}

// Root mean square errors of the kernel and of a plain sum in float32, each operand random.
void check_accuracy(GemmKernel kernel, double low, int64_t K) {
  constexpr int64_t M = 16, N = 24;
  begin_case("gemm kernel", int(kernel), "accuracy from", low, "K", K);
  Lying<float> a(M, K, Lie::rows), b(K, N, Lie::rows);
  const auto fill = [&](Lying<float>& matrix, int64_t rows, int64_t cols) {
    const auto random = randoms<float>(rows * cols, low, 1);
    for (int64_t i = 0; i < rows * cols; ++i) matrix(i / cols, i % cols) = random[i];
  };
  fill(a, M, K), fill(b, K, N);
  const auto c = product(kernel, a, b, M, N, K);
  double squares = 0, squares_of_plain = 0, squares_of_c = 0;
  for (int64_t m = 0; m < M; ++m)
    for (int64_t n = 0; n < N; ++n) {
      double want = 0;
      float plain = 0;
      for (int64_t k = 0; k < K; ++k) {
        want += double(a(m, k)) * double(b(k, n));
        plain = std::fma(a(m, k), b(k, n), plain);
      }
      squares += std::pow(c[m * N + n] - want, 2);
      squares_of_plain += std::pow(plain - want, 2);
      squares_of_c += want * want;
    }
  ++compared;
  const bool tf32 = rounds_to_tf32(kernel);
  // tf32 keeps 11 significant bits of each operand.
  const double most = tf32 ? 0x1p-11 * std::sqrt(squares_of_c) : 2 * std::sqrt(squares_of_plain);
  if (!(std::sqrt(squares) <= most))
    fail("error " + std::to_string(std::sqrt(squares)) + ", wanted at most " +
         std::to_string(most));
  if (tf32 && squares < 4 * squares_of_plain) fail("more accurate than tf32 is");
}

// Infinities, NaN, and what overflows when it is rounded to tf32, where float32 has them.
template <class T, int64_t M = 20>
void check_not_finite(GemmKernel kernel, int parts = 0) {
  begin_case("gemm kernel", int(kernel), "not finite, parts", parts);
  constexpr int64_t N = 20, K = 20;
  Lying<T> a(M, K, Lie::rows), b(K, N, Lie::columns);
  const double largest = std::is_same_v<T, float16> ? 65504 : value(from_double<T>(3.4e38));
  const double special[] = {INFINITY, -INFINITY, NAN, largest};
  for (int64_t i = 0; i < 4; ++i) {
    const int64_t k = 2 * i, l = 2 * i + 1;  // where the special one meets zeros and ones alone
    for (int64_t j = 0; j < M; ++j) b(k, j) = T(j % 2), a(j, l) = T(j % 3 == 0);
    a(i, k) = b(l, i + 9) = from_double<T>(special[i]);
  }
  const auto c = product(kernel, a, b, M, N, K, parts);
  for (int64_t m = 0; m < M; ++m)
    for (int64_t n = 0; n < N; ++n) {
      double want = 0;
      for (int64_t k = 0; k < K; ++k) want += std::as_const(a)(m, k) * std::as_const(b)(k, n);
      near(c[m * N + n], static_cast<double>(static_cast<acc_t<T>>(want)), std::fabs(want), "C",
           m * N + n);
    }
}

// Few lines of one operand, on either side; the other's lie along k, across, or are not aligned.
template <class T>
void test_skinny() {
  const auto few = [] { return pick<int64_t>({1, 2, 9, 16}); };
  const auto many = [] { return pick<int64_t>({1, 7, 31, 32, 33, 70}); };
  const auto depth = [] { return pick<int64_t>({0, 1, 8, 31, 64, 130}); };
  for (Lie lie : {Lie::rows, Lie::columns, Lie::odd_rows, Lie::odd_columns, Lie::shifted}) {
    check_exact<T>(GemmKernel::skinny, few(), many(), depth(), Lie(rng() % kLies), lie);
    check_exact<T>(GemmKernel::skinny, 16 + many(), few(), depth(), lie, Lie(rng() % kLies));
  }
  check_exact<T>(GemmKernel::skinny, 16, 33, 515, Lie::rows, Lie::rows);  // by clusters
  check_exact<T>(GemmKernel::skinny, 70, 9, 1030, Lie::columns, Lie::rows);
  check_not_finite<T, 16>(GemmKernel::skinny);
}

// Tiles that the blocks of a cluster share: fewer steps of k than blocks, as many, and a part of
// one more; each layout.
template <class T>
void test_parts() {
  const auto size = [] { return pick<int64_t>({1, 20, 31, 33}); };
  const auto lie = [] { return Lie(rng() % kLies); };
  const bool is_double = std::is_same_v<T, double>;
  using Small = std::conditional_t<is_double, cuda::Tile<32, 32, 2>, cuda::Tile<32, 32>>;
  using Large = cuda::Tile<64, 64>;
  check_plain<T, Small>(33, 34, 600, Lie::rows, Lie::columns, 8);
  check_plain<T, Small>(31, 32, 200, Lie::columns, Lie::rows, 2);
  check_plain<T, Small>(size(), size(), 65, lie(), lie(), 3);
  check_plain<T, Small>(size(), size(), pick<int64_t>({0, 1, 16}), lie(), lie(), 8);
  check_plain<T, Large>(65, 63, 100, Lie::rows, Lie::rows, 2);
  check_plain<T, Large>(64, 33, pick<int64_t>({1, 33}), lie(), lie(), 4);
  constexpr int64_t kDepth = cuda::kTileDepth / sizeof(T);
  for (const auto& [a, b] : {std::pair{Lie::rows, Lie::columns},
                             {Lie::rows, Lie::rows},
                             {Lie::columns, Lie::rows},
                             {Lie::odd_rows, Lie::sparse}})
    check_exact<T>(GemmKernel::mma_small, size(), 31 + size(), 9 * kDepth + 1, a, b, pick({2, 4}));
  check_exact<T>(GemmKernel::mma_small, 65, 20, 2 * kDepth, lie(), lie(), 8);
  check_exact<T>(GemmKernel::mma_small, 20, 64, pick<int64_t>({0, 1}), lie(), lie(), 3);
  check_exact<T>(GemmKernel::mma_small, 20, 20, 24 * kDepth, Lie::rows,
                 Lie::rows);  // as it chooses
  if constexpr (std::is_same_v<T, float>) check_not_finite<T>(GemmKernel::mma_small, 2);
}

// First those that most of faults/gemm.py is about.
template <class T>
std::vector<GemmKernel> kernels_of() {
  if (std::is_same_v<T, double>) return {GemmKernel::plain, GemmKernel::mma_small};
  std::vector<GemmKernel> kernels{GemmKernel::wgmma, GemmKernel::plain, GemmKernel::mma_small,
                                  GemmKernel::mma_large};
  if (std::is_same_v<T, float>) kernels.push_back(GemmKernel::split);
  if (std::is_same_v<T, float16>) kernels.insert(kernels.begin(), GemmKernel::mma_sm75);
  return kernels;
}

}  // namespace

template <class T>
void test_gemm() {
  check_banks<cuda::Adjacent::along_k>();
  check_banks<cuda::Adjacent::across_lines>();
  test_parts<T>();
  test_skinny<T>();
  for (GemmKernel kernel : kernels_of<T>()) {
    const bool large = kernel != GemmKernel::plain && kernel != GemmKernel::mma_small &&
                       kernel != GemmKernel::mma_sm75;
    const int64_t edge = large ? 128 : 64;
    const bool wide = kernel == GemmKernel::wgmma;
    const int64_t right = wide ? 2 * edge : edge;  // the edge of N
    const auto size = [&](int64_t edge) {
      return pick<int64_t>({1, 7, 16, 31, edge - 1, edge, edge + 1});
    };
    const auto depth = [&] { return pick<int64_t>({0, 1, 8, 15, 16, 17, 32, 33, 100, 150}); };
    for (int i = 0; i < kLies; ++i)  // each for both operands
      check_exact<T>(kernel, size(edge), size(right), depth(), Lie(i), Lie((i + rng()) % kLies)),
          check_exact<T>(kernel, size(edge), size(right), depth(), Lie((i + rng()) % kLies),
                         Lie(i));
    // A tile's last row, column and step; and the first of the next.
    check_exact<T>(kernel, edge, right + 1, 100, Lie::rows, Lie::columns);
    check_exact<T>(kernel, edge + 1, right, 33, Lie::columns, Lie::rows);
    check_exact<T>(kernel, edge + 1, right + 1, 129, Lie::rows, Lie::rows);
    if (wide) {  // tiles shared by 2 and 4 blocks, with more steps than stages, and the layouts
      constexpr int64_t kDepth = 64 / sizeof(T);  // half a step
      check_exact<T>(kernel, edge - 2, right - 3, 32 * kDepth + 3, Lie::rows, Lie::columns);
      check_exact<T>(kernel, edge + 1, 34, 64 * kDepth + 2, Lie::rows, Lie::rows);
      check_exact<T>(kernel, 31, right + 5, 35 * kDepth, Lie::columns, Lie::rows);
    }
    check_reading<T>(kernel, edge - 3, edge + 1);
    check_not_finite<T>(kernel);
    if constexpr (std::is_same_v<T, float>) {
      if (rounds_to_tf32(kernel))
        for (Lie lie : {Lie::rows, Lie::columns}) check_rounding(kernel, lie);
      check_accuracy(kernel, -1, 400);
      check_accuracy(kernel, 0, 400);
    }
  }
}

GDEXT_TEST_FOR_ALL_DTYPES(test_gemm)

}  // namespace gdext::test
