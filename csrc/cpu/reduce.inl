// Sums over a whole tensor, and elementwise loops, over fixed ranges of elements
// (contract/common.h).

constexpr int64_t kElementwiseGrain = 16 * 1024;

// A sum in float64 that keeps what rounding loses of each term (Kahan, "Further remarks on reducing
// truncation errors", 1965), so that float64 results too are good to the last digit or two.
class Sum {
 public:
  void operator+=(double term) {
    const double corrected = term - lost_;
    const double next = sum_ + corrected;
    lost_ = (next - sum_) - corrected;
    if (!std::isfinite(lost_)) lost_ = 0;  // infinity - infinity: the sum itself stays what it is
    sum_ = next;
  }
  operator double() const { return sum_; }

 private:
  double sum_ = 0, lost_ = 0;
};

struct Sums {
  double first = 0, second = 0;
};

// f(i) -> Sums of element i, for i in [0, n); `workspace` has room for kWorkspace doubles. A thread
// is worth starting for `grain` elements.
template <class F>
Sums sum_over(int64_t n, double* workspace, const F& f, int64_t grain = kElementwiseGrain) {
  const int64_t shortest = std::min<int64_t>(grain, 1024);
  const int64_t range = std::max(shortest, (n + kPartials - 1) / kPartials);
  const int64_t ranges = (n + range - 1) / range;
  parallel_for(0, ranges, std::max<int64_t>(grain / range, 1), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      Sum first, second;
      for (int64_t i = r * range; i < std::min(n, (r + 1) * range); ++i) {
        const Sums term = f(i);
        first += term.first;
        second += term.second;
      }
      workspace[2 * r] = first;
      workspace[2 * r + 1] = second;
    }
  });
  Sum first, second;
  for (int64_t r = 0; r < ranges; ++r) {
    first += workspace[2 * r];
    second += workspace[2 * r + 1];
  }
  return {first, second};
}

// f(Whole or Part) over [0, n) (lanes.inl).
template <class A, class F>
void for_all_lanes(int64_t n, const F& f) {
  parallel_for(0, n, kElementwiseGrain,
               [&](int64_t begin, int64_t end) { for_each_lanes<A>(begin, end, f); });
}

template <class F>
void for_each_element(int64_t n, const F& f, int64_t grain = kElementwiseGrain) {
  parallel_for(0, n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(i);
  });
}
