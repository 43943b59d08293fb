#include "contract/mse.h"
#include "harness.h"

namespace gdext::test {
namespace {

struct MseCase {
  int64_t n;
  Reduction reduction;
  bool weighted;
  bool expanded_dy;  // one number for all of dy, though it is [n]
};

template <class T>
void check(const MseCase& c) {
  begin_case("mse n", c.n, "reduction", int(c.reduction), "weighted", c.weighted, "expanded dy",
             c.expanded_dy);
  const bool none = c.reduction == Reduction::none;
  const int64_t losses = none ? c.n : 1, dy_stride = none && !c.expanded_dy ? 1 : 0;
  const auto x = randoms<T>(c.n), t = randoms<T>(c.n), weights = randoms<T>(c.n, 0, 2);
  const auto u = randoms<T>(c.n), dy = randoms<T>(dy_stride ? c.n : 1);
  const void* w = c.weighted ? weights.data() : nullptr;
  auto loss = unwritten<T>(losses), dx = unwritten<T>(c.n);
  auto gdy = unwritten<T>(losses), gx = unwritten<T>(c.n);
  auto norm = unwritten<acc_t<T>>(1);
  auto workspace = unwritten<double>(kWorkspace);
  constexpr DType dtype = dtype_of<T>();
  backend::mse(
      {dtype, c.reduction, c.n, x.data(), t.data(), w, loss.data(), norm.data(), workspace.data()},
      {});
  backend::mse_backward(
      {dtype, c.n, dy.data(), dy_stride, x.data(), t.data(), w, norm.data(), dx.data()}, {});
  backend::mse_double_backward({dtype, c.reduction, c.n, u.data(), dy.data(), dy_stride, x.data(),
                                t.data(), w, norm.data(), gdy.data(), gx.data(), workspace.data()},
                               {});

  const auto weight = [&](int64_t i) { return c.weighted ? value(weights[i]) : 1.0; };
  double loss_sum = 0, weight_sum = 0, gdy_sum = 0, gdy_magnitude = 0;
  for (int64_t i = 0; i < c.n; ++i) {
    const double difference = value(x[i]) - value(t[i]);
    const double term = weight(i) * difference * difference;
    if (none) near(loss[i], term, term, "loss", i);
    loss_sum += term;
    weight_sum += weight(i);
  }
  const double divisor = c.reduction == Reduction::mean ? weight_sum : 1;
  near(norm[0], divisor, divisor, "norm", 0);
  if (!none) near(loss[0], loss_sum / divisor, loss_sum / divisor, "loss", 0);

  for (int64_t i = 0; i < c.n; ++i) {
    const double slope = 2 * weight(i) * (value(x[i]) - value(t[i]));
    const double dy_i = value(dy[i * dy_stride]), u_i = value(u[i]);
    near(dx[i], dy_i * slope / divisor, std::fabs(dy_i * slope / divisor), "dx", i);
    near(gx[i], u_i * 2 * weight(i) * dy_i / divisor, 0, "gx", i);
    if (none) near(gdy[i], u_i * slope, std::fabs(slope), "gdy", i);
    gdy_sum += u_i * slope / divisor;
    gdy_magnitude += std::fabs(u_i * slope / divisor);
  }
  if (!none) near(gdy[0], gdy_sum, gdy_magnitude, "gdy", 0);
}

}  // namespace

template <class T>
void test_mse() {
  for (int64_t n : {0, 1, 2, 255, 256, 257, 3000})
    for (Reduction reduction : {Reduction::none, Reduction::mean, Reduction::sum})
      for (bool weighted : {false, true}) {
        check<T>({n, reduction, weighted, false});
        if (reduction == Reduction::none) check<T>({n, reduction, weighted, true});
      }
  // More than one round of all blocks of 256 threads.
  check<T>({kPartials * 256 + 77, Reduction::mean, true, false});
}

GDEXT_TEST_FOR_ALL_DTYPES(test_mse)

}  // namespace gdext::test
