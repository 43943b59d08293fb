#include "contract/sgd.h"
#include "harness.h"

namespace gdext::test {
namespace {

struct SgdCase {
  int tensors;
  std::vector<int64_t> sizes;  // to pick from
  int64_t offsets[3];          // elements from an aligned address to each p, g and m
  double momentum, dampening, weight_decay;
  bool nesterov, maximize;
  bool lr_on_device, lr_is_float, scaled;
  int found_inf;  // -1: not given
};

// n numbers with some around them that nobody may write, and that an update would change.
template <class T>
struct Guarded {
  static constexpr int64_t kAfter = 16;
  int64_t offset;
  std::vector<T> all;  // [offset + n + kAfter]

  Guarded(int64_t offset, const std::vector<T>& values)
      : offset(offset), all(offset + kAfter, from_double<T>(0.75)) {
    all.insert(all.begin() + offset, values.begin(), values.end());
  }
  T* data() { return all.data() + offset; }
  T operator[](int64_t i) const { return all[offset + i]; }
};

template <class T>
struct TensorState {
  bool first;
  int64_t n;
  Guarded<T> p, g, m;
};

template <class T>
void check(const SgdCase& c) {
  begin_case("sgd tensors", c.tensors, "offsets", c.offsets[0], c.offsets[1], c.offsets[2],
             "momentum", c.momentum, "dampening", c.dampening, "weight_decay", c.weight_decay,
             "nesterov", c.nesterov, "maximize", c.maximize, "lr on device", c.lr_on_device,
             "float", c.lr_is_float, "scaled", c.scaled, "found_inf", c.found_inf);
  const bool has_momentum = c.momentum != 0;
  std::vector<TensorState<T>> before;
  for (int i = 0; i < c.tensors; ++i) {
    const int64_t n = c.sizes[rng() % c.sizes.size()];
    const bool first = coin();
    before.push_back(
        {first, n, Guarded<T>(c.offsets[0], randoms<T>(n)), Guarded<T>(c.offsets[1], randoms<T>(n)),
         Guarded<T>(c.offsets[2], first || !has_momentum ? unwritten<T>(n) : randoms<T>(n))});
  }
  auto after = before;
  std::vector<SgdTensor> tensors;
  for (TensorState<T>& t : after)
    tensors.push_back({t.p.data(), t.g.data(), has_momentum ? t.m.data() : nullptr, t.n, t.first});
  alignas(8) const float lr_of_float[] = {-5, 0.1f};  // not where a double may be
  const double lr = c.lr_on_device && c.lr_is_float ? lr_of_float[1] : 0.1, unread_lr = -5;
  const void* lr_tensor = c.lr_is_float ? static_cast<const void*>(&lr_of_float[1]) : &lr;
  const float scale = 4, found_inf = static_cast<float>(c.found_inf);
  std::vector<int64_t> workspace((sgd_workspace_bytes(c.tensors) + 7) / 8);
  backend::sgd(
      {dtype_of<T>(), tensors.data(), c.tensors, c.lr_on_device ? unread_lr : lr,
       c.lr_on_device ? lr_tensor : nullptr, c.momentum, c.dampening, c.weight_decay, c.nesterov,
       c.maximize, c.scaled ? &scale : nullptr, c.found_inf >= 0 ? &found_inf : nullptr,
       workspace.data(), c.lr_is_float ? DType::f32 : DType::f64},
      {});

  for (int i = 0; i < c.tensors; ++i) {
    const TensorState<T>&old = before[i], &now = after[i];
    const auto same = [&](const Guarded<T>& a, const Guarded<T>& b, int64_t j) {
      ++compared;
      return memcmp(&a.all[a.offset + j], &b.all[b.offset + j], sizeof(T)) == 0;
    };
    const auto check_around = [&](const Guarded<T>& a, const Guarded<T>& b, const char* what) {
      for (int64_t j = -a.offset; j < old.n + Guarded<T>::kAfter; ++j)
        if ((j < 0 || j >= old.n) && !same(a, b, j))
          fail(std::string(what) + ": " + std::to_string(j) + " was written");
    };
    check_around(now.p, old.p, "p");
    check_around(now.g, old.g, "g");
    check_around(now.m, old.m, "m");
    for (int64_t j = 0; j < old.n; ++j) {
      if (c.found_inf > 0) {
        if (!same(now.p, old.p, j) || !same(now.g, old.g, j) || !same(now.m, old.m, j))
          fail("element " + std::to_string(j) + " was written");
        continue;
      }
      if (!c.scaled && !same(now.g, old.g, j)) fail("g was written without a scale");
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

template <class T>
void check_with_random_options(int tensors, const std::vector<int64_t>& sizes, int found_inf) {
  // In half of the cases p, g and m lie alike between the boundaries of vectors, at any place.
  const int64_t p = pick<int64_t>({0, 1, 2, 3, 7}), others = pick<int64_t>({0, 1, 2, 8});
  const bool alike = coin();
  check<T>({.tensors = tensors,
            .sizes = sizes,
            .offsets = {p, alike ? p : others, alike || coin() ? p : 4},
            .momentum = pick({0.0, 0.9}),
            .dampening = pick({0.0, 0.3}),
            .weight_decay = pick({0.0, 0.01}),
            .nesterov = coin(),
            .maximize = coin(),
            .lr_on_device = coin(),
            .lr_is_float = coin(),
            .scaled = coin(),
            .found_inf = found_inf});
}

}  // namespace

template <class T>
void test_sgd() {
  // 8 KB: what one block of the CUDA kernel takes of a tensor.
  const int64_t chunk = 8192 / sizeof(T);
  const std::vector<int64_t> any = {
      0, 1, 3, 7, 8, 33, chunk - 1, chunk, chunk + 1, chunk + 8, 2 * chunk, 5 * chunk + 3};
  for (int trial = 0; trial < 45; ++trial)
    check_with_random_options<T>(static_cast<int>(rng() % 6), any, pick({-1, 0, 0, 1}));
  // More than fit into the small table of a launch, then into the large one.
  check_with_random_options<T>(150, any, -1);
  check_with_random_options<T>(std::is_same_v<T, float> ? 1000 : 300, {0, 1, 5, 9}, 0);
  check_with_random_options<T>(2100, {0, 1, 5, 9, 9}, -1);
}

GDEXT_TEST_FOR_ALL_DTYPES(test_sgd)

}  // namespace gdext::test
