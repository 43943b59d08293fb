#include "contract/sgd.h"
#include "harness.h"

namespace gdext::test {
namespace {

struct SgdCase {
  int tensors;
  int64_t offset;  // elements from an aligned address to each tensor's start
  double momentum, dampening, weight_decay;
  bool nesterov, maximize;
  bool lr_on_device, scaled;
  int found_inf;  // -1: not given
};

template <class T>
struct TensorState {
  bool first;
  std::vector<T> p, g, m;  // [offset + n]
};

template <class T>
void check(const SgdCase& c) {
  begin_case("sgd tensors", c.tensors, "offset", c.offset, "momentum", c.momentum, "dampening",
             c.dampening, "weight_decay", c.weight_decay, "nesterov", c.nesterov, "maximize",
             c.maximize, "lr on device", c.lr_on_device, "scaled", c.scaled, "found_inf",
             c.found_inf);
  const bool has_momentum = c.momentum != 0;
  std::vector<TensorState<T>> before;
  for (int i = 0; i < c.tensors; ++i) {
    const int64_t n = c.offset + pick<int64_t>({0, 1, 7, 8, 4095, 4096, 4097, 9001, 3, 33});
    const bool first = coin();
    before.push_back({first, randoms<T>(n), randoms<T>(n),
                      first || !has_momentum ? unwritten<T>(n) : randoms<T>(n)});
  }
  auto after = before;
  std::vector<SgdTensor> tensors;
  for (TensorState<T>& t : after)
    tensors.push_back({t.p.data() + c.offset, t.g.data() + c.offset,
                       has_momentum ? t.m.data() + c.offset : nullptr,
                       static_cast<int64_t>(t.p.size()) - c.offset, t.first});
  const double lr = 0.1, unread_lr = -5;
  const float scale = 4, found_inf = static_cast<float>(c.found_inf);
  backend::sgd({dtype_of<T>(), tensors.data(), c.tensors, c.lr_on_device ? unread_lr : lr,
                c.lr_on_device ? &lr : nullptr, c.momentum, c.dampening, c.weight_decay, c.nesterov,
                c.maximize, c.scaled ? &scale : nullptr, c.found_inf >= 0 ? &found_inf : nullptr},
               {});

  for (int i = 0; i < c.tensors; ++i) {
    const TensorState<T>&old = before[i], &now = after[i];
    for (int64_t j = 0; j < static_cast<int64_t>(old.p.size()); ++j) {
      const auto same = [&](const std::vector<T>& a, const std::vector<T>& b) {
        ++compared;
        return memcmp(&a[j], &b[j], sizeof(T)) == 0;
      };
      if (c.found_inf > 0 || j < c.offset) {
        if (!same(now.p, old.p) || !same(now.g, old.g) || !same(now.m, old.m))
          fail("element " + std::to_string(j) + " was written");
        continue;
      }
      if (!c.scaled && !same(now.g, old.g)) fail("g was written without a scale");
      const double p = value(old.p[j]), g = value(old.g[j]) / (c.scaled ? scale : 1);
      near(now.g[j], g, 0, "g", j);
      double d = (c.maximize ? -g : g) + c.weight_decay * p;
      if (has_momentum) {
        const double m = old.first ? d : c.momentum * value(old.m[j]) + (1 - c.dampening) * d;
        near(now.m[j], m, 2, "m", j);
        d = c.nesterov ? d + c.momentum * m : m;
      }
      near(now.p[j], p - lr * d, 2, "p", j);
    }
  }
}

}  // namespace

template <class T>
void test_sgd() {
  constexpr int kMoreThanOneTable = 150;
  for (int trial = 0; trial < 42; ++trial)
    check<T>({.tensors = trial % 14 == 0 ? kMoreThanOneTable : static_cast<int>(rng() % 6),
              .offset = pick<int64_t>({0, 1, 2}),
              .momentum = pick({0.0, 0.9}),
              .dampening = pick({0.0, 0.3}),
              .weight_decay = pick({0.0, 0.01}),
              .nesterov = coin(),
              .maximize = coin(),
              .lr_on_device = coin(),
              .scaled = coin(),
              .found_inf = pick({-1, 0, 1})});
}

GDEXT_TEST_FOR_ALL_DTYPES(test_sgd)

}  // namespace gdext::test
