// contract/peak.h: the arguments checked. There are no tensors, so the CPU is meant.
#include "contract/peak.h"

#include <cmath>

#include "torch/ops.h"

namespace gdext {

namespace {
void check_seconds(double seconds) {
  GDEXT_CHECK_VALUE(std::isfinite(seconds) && seconds >= 0,
                    "seconds: wanted a finite number >= 0, got ", seconds);
}
}  // namespace

double fma_peak(ScalarType dtype, double seconds) {
  GDEXT_CHECK_VALUE(dtype == ScalarType::Float || dtype == ScalarType::Double,
                    "dtype: wanted float32 or float64, got ", show_dtype(dtype));
  check_seconds(seconds);
  double rate = 0;
  cpu::fma_peak({dtype == ScalarType::Double ? DType::f64 : DType::f32, seconds, &rate}, {});
  return rate;
}

double bandwidth(int64_t bytes, double seconds) {
  constexpr int64_t kLeast = 1024, kMost = int64_t{1} << 40;
  GDEXT_CHECK_VALUE(bytes >= kLeast && bytes <= kMost, "bytes: wanted a number from ", kLeast,
                    " to ", kMost, ", got ", bytes);
  check_seconds(seconds);
  double rate = 0;
  cpu::bandwidth({bytes, seconds, &rate}, {});
  return rate;
}

}  // namespace gdext
