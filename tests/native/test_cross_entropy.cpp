#include "contract/cross_entropy.h"
#include "harness.h"

namespace gdext::test {
namespace {

enum class Ignored { none, some, all };

struct CrossEntropyCase {
  int64_t N, C, D;
  Reduction reduction;
  bool prob;  // class probabilities, else class indices
  bool weighted;
  double label_smoothing;
  Ignored ignored;
  bool extreme = false;  // logits up to 1e4, and -inf where a one-hot target may have it
};

// One case's inputs, the checked outputs that the backward passes read, and the formulas of
// contract/cross_entropy.h in float64. `at` is an element of an [N,C,D] tensor, s a sample n*D + d.
template <class T>
class CrossEntropyTest {
 public:
  using A = acc_t<T>;

  explicit CrossEntropyTest(const CrossEntropyCase& c)
      : c_(c),
        samples_(c.N * c.D),
        none_(c.reduction == Reduction::none),
        x_(randoms<T>(c.N * c.C * c.D, c.extreme ? -1e4 : -4, c.extreme ? 1e4 : 4)),
        prob_(randoms<T>(x_.size(), 0, 1)),
        w_(randoms<T>(c.C, 0.2, 2)),
        dy_(randoms<T>(losses())),
        index_(samples_) {
    if (c.extreme) make_infinite_logits();
    for (int64_t s = 0; s < samples_; ++s) index_[s] = any_index(s);
    target_ = {c.prob ? nullptr : index_.data(), c.prob ? prob_.data() : nullptr,
               c.weighted ? w_.data() : nullptr, ignore_index(), c.label_smoothing};
  }

  void check() {
    check_forward();
    check_backward();
    check_double_backward();
  }

 private:
  int64_t losses() const { return none_ ? samples_ : 1; }
  int64_t dy_stride() const { return none_ ? 1 : 0; }
  int64_t at(int64_t s, int64_t c) const { return (s / c_.D * c_.C + c) * c_.D + s % c_.D; }

  // Within the classes or, as PyTorch's default, outside.
  int64_t ignore_index() const { return c_.ignored == Ignored::all ? -100 : c_.C / 2; }
  bool ignored(int64_t s) const { return !c_.prob && index_[s] == ignore_index(); }

  void make_infinite_logits() {
    if (!c_.prob && c_.label_smoothing == 0)
      for (T& logit : x_)
        if (rng() % 5 == 0) logit = from_double<T>(-INFINITY);
    for (int64_t s = 0; s < samples_; ++s) x_[at(s, 0)] = from_double<T>(3);
  }

  int64_t any_index(int64_t s) const {
    if (c_.ignored == Ignored::all || (c_.ignored == Ignored::some && coin()))
      return ignore_index();
    int64_t index = static_cast<int64_t>(rng() % c_.C);
    if (c_.ignored == Ignored::none && index == ignore_index()) index = 0;
    return std::isinf(value(x_[at(s, index)])) ? ignore_index() : index;
  }

  double weight(int64_t c) const { return c_.weighted ? value(w_[c]) : 1; }
  double q_slope(int64_t c) const { return weight(c) * (1 - c_.label_smoothing); }
  double q(int64_t s, int64_t c) const {
    if (ignored(s)) return 0;
    const double hit = c_.prob ? value(prob_[at(s, c)]) : double(index_[s] == c);
    const double e = c_.label_smoothing;
    return weight(c) * ((1 - e) * hit + e / static_cast<double>(c_.C));
  }
  double log_p(int64_t s, int64_t c) const { return value(x_[at(s, c)]) - m_[s] - l_[s]; }
  double g(int64_t s) const { return ignored(s) ? 0 : value(dy_[s * dy_stride()]) / divisor_; }
  double sum_q(int64_t s) const {
    double sum = 0;
    for (int64_t c = 0; c < c_.C; ++c) sum += q(s, c);
    return sum;
  }

  void check_forward() {
    auto loss = unwritten<T>(losses());
    backend::cross_entropy({dtype_of<T>(), c_.reduction, c_.N, c_.C, c_.D, x_.data(), target_,
                            loss.data(), stats_.data(), norm_.data(), workspace_.data()},
                           {});
    double loss_sum = 0, magnitude_sum = 0, weight_sum = 0;
    for (int64_t s = 0; s < samples_; ++s) {
      double m = -INFINITY, exp_sum = 0;
      for (int64_t c = 0; c < c_.C; ++c) m = std::max(m, value(x_[at(s, c)]));
      for (int64_t c = 0; c < c_.C; ++c) exp_sum += std::exp(value(x_[at(s, c)]) - m);
      m_[s] = m;
      l_[s] = std::log(exp_sum);
      near(stats_[s], m_[s], 0, "m", s);
      near(stats_[samples_ + s], l_[s], 1, "l", s);
      double want = 0, magnitude = 1;
      for (int64_t c = 0; c < c_.C; ++c)
        if (q(s, c) != 0) {
          want -= q(s, c) * log_p(s, c);
          magnitude += std::fabs(q(s, c) * log_p(s, c));
        }
      if (none_) near(loss[s], want, magnitude, "loss", s);
      loss_sum += want;
      magnitude_sum += magnitude - 1;
      if (!ignored(s)) weight_sum += c_.prob ? 1 : weight(index_[s]);
    }
    divisor_ = c_.reduction == Reduction::mean ? weight_sum : 1;
    near(norm_[0], divisor_, divisor_, "norm", 0);
    if (!none_) near(loss[0], loss_sum / divisor_, magnitude_sum / divisor_ + 1, "loss", 0);
  }

  void check_backward() {
    auto dx = unwritten<T>(x_.size()), dt = unwritten<T>(x_.size());
    backend::cross_entropy_backward(
        {dtype_of<T>(), c_.N, c_.C, c_.D, dy_.data(), dy_stride(), x_.data(), target_,
         stats_.data(), norm_.data(), dx.data(), c_.prob ? dt.data() : nullptr},
        {});
    for (int64_t s = 0; s < samples_; ++s) {
      const double a = sum_q(s), size = std::fabs(g(s));
      for (int64_t c = 0; c < c_.C; ++c) {
        const int64_t i = at(s, c);
        near(dx[i], g(s) * (a * std::exp(log_p(s, c)) - q(s, c)), size * (2 * a + 2), "dx", i);
        if (c_.prob)
          near(dt[i], -g(s) * q_slope(c) * log_p(s, c), size * (std::fabs(log_p(s, c)) + 10), "dt",
               i);
      }
    }
  }

  void check_double_backward() {
    const bool has_u = !c_.prob || rng() % 4 != 0, has_v = c_.prob && rng() % 4 != 0;
    const auto us = randoms<T>(x_.size()), vs = randoms<T>(x_.size());
    auto gdy = unwritten<T>(losses());
    auto gx = unwritten<T>(x_.size()), gt = unwritten<T>(x_.size());
    backend::cross_entropy_double_backward(
        {dtype_of<T>(), c_.reduction, c_.N, c_.C, c_.D, has_u ? us.data() : nullptr,
         has_v ? vs.data() : nullptr, dy_.data(), dy_stride(), x_.data(), target_, stats_.data(),
         norm_.data(), gdy.data(), gx.data(), c_.prob ? gt.data() : nullptr, workspace_.data()},
        {});
    double gdy_sum = 0, magnitude_sum = 0;
    for (int64_t s = 0; s < samples_; ++s) {
      const auto u = [&](int64_t c) { return has_u ? value(us[at(s, c)]) : 0; };
      const auto k = [&](int64_t c) { return has_v ? q_slope(c) * value(vs[at(s, c)]) : 0; };
      const double a = sum_q(s), size = std::fabs(g(s));
      double r = 0, k_sum = 0, h = 0, h_magnitude = 1;
      for (int64_t c = 0; c < c_.C; ++c) {
        r += u(c) * std::exp(log_p(s, c));
        k_sum += k(c);
      }
      const double gx_magnitude = size * (4 * a + 4 + (has_v ? 4 * static_cast<double>(c_.C) : 0));
      for (int64_t c = 0; c < c_.C; ++c) {
        const int64_t i = at(s, c);
        const double ap = a * std::exp(log_p(s, c));
        const double from_v = has_v ? k(c) * log_p(s, c) : 0;  // not 0 * -inf
        h += u(c) * (ap - q(s, c)) - from_v;
        h_magnitude += 2 * (std::fabs(u(c)) * (ap + q(s, c)) + std::fabs(from_v));
        near(gx[i], g(s) * (ap * (u(c) - r) + std::exp(log_p(s, c)) * k_sum - k(c)), gx_magnitude,
             "gx", i);
        if (c_.prob) near(gt[i], g(s) * q_slope(c) * (r - u(c)), 4 * size, "gt", i);
      }
      if (none_) near(gdy[s], h, h_magnitude, "gdy", s);
      gdy_sum += h / divisor_;
      magnitude_sum += h_magnitude / divisor_;
    }
    if (!none_) near(gdy[0], gdy_sum, magnitude_sum, "gdy", 0);
  }

  const CrossEntropyCase c_;
  const int64_t samples_;
  const bool none_;
  std::vector<T> x_, prob_, w_, dy_;
  std::vector<int64_t> index_;
  CrossEntropyTarget target_;
  std::vector<A> stats_ = unwritten<A>(2 * samples_), norm_ = unwritten<A>(1);
  std::vector<double> workspace_ = unwritten<double>(kWorkspace);
  std::vector<double> m_ = unwritten<double>(samples_), l_ = unwritten<double>(samples_);
  double divisor_ = NAN;
};

template <class T>
void check(const CrossEntropyCase& c) {
  begin_case("cross_entropy N", c.N, "C", c.C, "D", c.D, "reduction", int(c.reduction), "prob",
             c.prob, "weighted", c.weighted, "label_smoothing", c.label_smoothing, "ignored",
             int(c.ignored), "extreme", c.extreme);
  CrossEntropyTest<T>(c).check();
}

// As in PyTorch: the gradients of an ignored sample with an infinite logit are NaN, its loss 0.
template <class T>
void check_ignored_infinity() {
  begin_case("cross_entropy, ignored sample with an infinite logit");
  const std::vector<T> x{from_double<T>(INFINITY), from_double<T>(1), from_double<T>(2)};
  const auto dy = randoms<T>(1), u = randoms<T>(3);
  const int64_t index = -100;
  const CrossEntropyTarget target{&index, nullptr, nullptr, index, 0};
  auto loss = unwritten<T>(1), dx = unwritten<T>(3), gdy = unwritten<T>(1), gx = unwritten<T>(3);
  auto stats = unwritten<acc_t<T>>(2), norm = unwritten<acc_t<T>>(1);
  auto workspace = unwritten<double>(kWorkspace);
  constexpr DType dtype = dtype_of<T>();
  backend::cross_entropy({dtype, Reduction::none, 1, 3, 1, x.data(), target, loss.data(),
                          stats.data(), norm.data(), workspace.data()},
                         {});
  backend::cross_entropy_backward({dtype, 1, 3, 1, dy.data(), 1, x.data(), target, stats.data(),
                                   norm.data(), dx.data(), nullptr},
                                  {});
  backend::cross_entropy_double_backward(
      {dtype, Reduction::none, 1, 3, 1, u.data(), nullptr, dy.data(), 1, x.data(), target,
       stats.data(), norm.data(), gdy.data(), gx.data(), nullptr, workspace.data()},
      {});
  near(loss[0], 0, 0, "loss", 0);
  near(gdy[0], 0, 0, "gdy", 0);
  for (int64_t c = 0; c < 3; ++c) {
    near(dx[c], NAN, 0, "dx", c);
    near(gx[c], NAN, 0, "gx", c);
  }
}

}  // namespace

template <class T>
void test_cross_entropy() {
  for (int trial = 0; trial < 120; ++trial)
    check<T>({.N = pick<int64_t>({0, 1, 3, 8, 9, 20}),
              .C = pick<int64_t>({1, 2, 10, 31, 32, 33, 100}),
              .D = pick<int64_t>({1, 2, 5, 31, 32, 40}),
              .reduction = pick({Reduction::none, Reduction::mean, Reduction::sum}),
              .prob = coin(),
              .weighted = coin(),
              .label_smoothing = pick({0.0, 0.1, 1.0}),
              .ignored = pick({Ignored::none, Ignored::some, Ignored::all})});
  for (Reduction reduction : {Reduction::none, Reduction::mean, Reduction::sum})
    for (bool prob : {false, true}) {
      // A block for each sample.
      check<T>({3, 1025, 1, reduction, prob, true, 0.1, Ignored::some});
      check<T>({2, 1500, 2, reduction, prob, false, 0, Ignored::none});
      check<T>({5, 10, 1, reduction, prob, true, 0, Ignored::none, /*extreme=*/true});
      check<T>({2, 10, 33, reduction, prob, true, 0, Ignored::some, /*extreme=*/true});
    }
  // More than one round of all blocks of 8 warps, a warp for each sample: slow, and alike for all
  // T.
  if (std::is_same_v<T, float>)
    check<T>({kPartials * 8 + 9, 3, 1, Reduction::mean, false, true, 0, Ignored::some});
  check<T>({1, 3, 5, Reduction::mean, false, true, 0, Ignored::all});
  check_ignored_infinity<T>();
}

GDEXT_TEST_FOR_ALL_DTYPES(test_cross_entropy)

}  // namespace gdext::test
