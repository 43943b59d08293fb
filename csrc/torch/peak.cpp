// contract/peak.h: the arguments checked. Where there are no tensors the CPU is meant.
#include "contract/peak.h"

#include <cmath>

#include "torch/device.h"
#include "torch/ops.h"

namespace gdext {

namespace {
void check_seconds(double seconds) {
  GDEXT_CHECK_VALUE(std::isfinite(seconds) && seconds >= 0,
                    "seconds: wanted a finite number >= 0, got ", seconds);
}

DType check_float_or_double(ScalarType dtype) {
  GDEXT_CHECK_VALUE(dtype == ScalarType::Float || dtype == ScalarType::Double,
                    "dtype: wanted float32 or float64, got ", show_dtype(dtype));
  return dtype == ScalarType::Double ? DType::f64 : DType::f32;
}

void check_repeats(int64_t repeats) {
  GDEXT_CHECK_VALUE(repeats >= 1, "repeats: wanted a number >= 1, got ", repeats);
}
}  // namespace

double fma_peak(ScalarType dtype, double seconds) {
  const DType type = check_float_or_double(dtype);
  check_seconds(seconds);
  double rate = 0;
  cpu::fma_peak({type, seconds, &rate}, {});
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

double fma_work_(Tensor out, int64_t repeats) {
  const DType dtype = check_float_or_double(out.scalar_type());
  check_repeats(repeats);
  GDEXT_CHECK(out.is_contiguous(), "out: wanted a contiguous tensor");
  const FmaWork work{dtype, out.numel(), repeats, out.mutable_data_ptr()};
  GDEXT_RUN_ON_CUDA(out, fma_work, work);
  return 2.0 * kFmaChains * static_cast<double>(work.threads) * static_cast<double>(repeats);
}

double update_work_(Tensor p, Tensor g, int64_t repeats) {
  GDEXT_CHECK(p.scalar_type() == ScalarType::Float, "p: wanted dtype float32, got ",
              show_dtype(p.scalar_type()));
  check_like(g, "g", p, "p");
  check_shape(g, "g", p.sizes(), "that of p");
  check_repeats(repeats);
  GDEXT_CHECK(p.is_contiguous() && g.is_contiguous() && p.numel() % 4 == 0,
              "p, g: wanted contiguous tensors of 4 k elements");
  auto* data_of_p = static_cast<float*>(p.mutable_data_ptr());
  const auto* data_of_g = static_cast<const float*>(data(g));
  GDEXT_CHECK(
      (reinterpret_cast<uintptr_t>(data_of_p) | reinterpret_cast<uintptr_t>(data_of_g)) % 16 == 0,
      "p, g: wanted memory aligned to 16 bytes");
  const UpdateWork work{p.numel(), repeats, data_of_p, data_of_g};
  GDEXT_RUN_ON_CUDA(p, update_work, work);
  return 12.0 * static_cast<double>(work.n) * static_cast<double>(repeats);
}

}  // namespace gdext
