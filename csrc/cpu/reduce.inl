// Sums in float64, elementwise loops over threads, and sums over a whole tensor by fixed ranges of
// elements (contract/common.h).

constexpr int64_t kElementwiseGrain = 16 * 1024;

// A sum of float64 numbers, or of vectors of them, that keeps what rounding loses of each term
// (Neumaier, "Rundungsfehleranalyse einiger Verfahren zur Summation endlicher Summen", 1974; the
// error of an addition after Knuth, which needs no comparison), so that float64 results too are
// good to the last digit or two.
template <class V>
class CompensatedSum {
 public:
  void operator+=(V term) {
    const V next = sum_ + term, added = next - sum_;
    lost_ += (sum_ - (next - added)) + (term - added);
    sum_ = next;
  }
  // Another sum, and what it lost.
  void add(V sum, V lost) {
    *this += sum;
    lost_ += lost;
  }
  V sum() const { return sum_; }
  V lost() const { return lost_; }
  // Where the sum is infinite, what it lost is infinity - infinity.
  V value() const { return select(lost_ - lost_ == 0.0, sum_ + lost_, sum_); }

 private:
  V sum_{}, lost_{};
};
using Sum = CompensatedSum<double>;

// The sum of vectors of A, lane by lane: float32 in float64, float64 compensated.
template <class A>
class LaneSum {
  using V = typename Vec<A>::type;
  using Wide = typename Vec<double>::type;
  static constexpr int kParts = Vec<A>::width / Vec<double>::width;

 public:
  void operator+=(V term) {
    if constexpr (kParts == 1) {
      compensated_ += term;
    } else {
      for (int part = 0; part < kParts; ++part) wide_[part] += widened(term, part);
    }
  }
  // The sums as lanes of A.
  V lanes() const {
    double lane[Vec<A>::width];
    A rounded[Vec<A>::width];
    for (int part = 0; part < kParts; ++part)
      Vec<double>::store(lane + part * Vec<double>::width,
                         kParts == 1 ? compensated_.value() : wide_[part]);
    for (int i = 0; i < Vec<A>::width; ++i) rounded[i] = static_cast<A>(lane[i]);
    return Vec<A>::load(rounded);
  }
  double total() const {
    if constexpr (kParts > 1)
      return fold<double>(wide_[0] + wide_[1], [](double a, double b) { return a + b; });
    double sums[Vec<A>::width], lost[Vec<A>::width];
    Vec<double>::store(sums, compensated_.sum());
    Vec<double>::store(lost, compensated_.lost());
    Sum sum;  // rounded once: each lane's would be one more
    for (int i = 0; i < Vec<A>::width; ++i) sum.add(sums[i], lost[i]);
    return sum.value();
  }

 private:
  CompensatedSum<Wide> compensated_;
  Wide wide_[kParts] = {};
};

struct Sums {
  double first = 0, second = 0;
};

// The sum of f(begin, end) -> Sums over ranges of [0, n); `workspace` has room for kWorkspace
// doubles. A thread is worth starting for `grain` elements.
template <class F>
Sums sum_over(int64_t n, double* workspace, int64_t grain, const F& f) {
  const int64_t shortest = std::min<int64_t>(grain, 1024);
  const int64_t range = std::max(shortest, (n + kPartials - 1) / kPartials);
  const int64_t ranges = (n + range - 1) / range;
  parallel_for(0, ranges, std::max<int64_t>(grain / range, 1), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const Sums sums = f(r * range, std::min(n, (r + 1) * range));
      workspace[2 * r] = sums.first;
      workspace[2 * r + 1] = sums.second;
    }
  });
  Sum first, second;
  for (int64_t r = 0; r < ranges; ++r) {
    first += workspace[2 * r];
    second += workspace[2 * r + 1];
  }
  return {first.value(), second.value()};
}

// f(Whole or Part) over [0, n) (lanes.inl).
template <class A, class F>
void for_all_lanes(int64_t n, const F& f) {
  parallel_for(0, n, kElementwiseGrain,
               [&](int64_t begin, int64_t end) { for_each_lanes<A>(begin, end, f); });
}
