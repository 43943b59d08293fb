// What the benchmark's limits are measured by does the work that it is said to do.
#include "contract/peak.h"
#include "harness.h"

namespace gdext::test {

template <class T>
void test_fma_work() {
  begin_case("peak, fma_work");
  constexpr int64_t kThreads = 300, kRepeats = 21;
  std::vector<T> out = unwritten<T>(kThreads + 1);
  cuda::fma_work({dtype_of<T>(), kThreads, kRepeats, out.data()}, {});
  double want = 0;
  for (int j = 0; j < kFmaChains; ++j) want += 2 + (j - 2) * std::pow(0.5, kRepeats);
  for (int64_t i = 0; i < kThreads; ++i) near(out[i], want, 0, "out", i);
  if (!std::isnan(value(out[kThreads]))) fail("wrote past the end");
}

void test_peak() {
  test_fma_work<float>();
  test_fma_work<double>();
  begin_case("peak, update_work");
  constexpr int64_t kElements = 4 * 300, kRepeats = 3;
  std::vector<float> p = randoms<float>(kElements), g = randoms<float>(kElements);
  const std::vector<float> before = p;
  cuda::update_work({kElements, kRepeats, p.data(), g.data()}, {});
  for (int64_t i = 0; i < kElements; ++i)
    near(p[i], double{before[i]} - kRepeats / 64.0 * g[i], 1, "p", i);
}

}  // namespace gdext::test
