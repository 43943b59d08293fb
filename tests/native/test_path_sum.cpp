// contract/path_sum.h: the sum over paths against the same gradient by backpropagation, in one call
// and in many.
#include <array>

#include "contract/path_sum.h"
#include "harness.h"

namespace gdext::test {
namespace {

using Numbers = std::vector<double>;

struct Layer {
  int64_t I, O;
  bool biased, sloped;
  Numbers w, a, s, dw, db;
};

struct Case {
  int64_t B;
  std::vector<Layer> layers;
  Numbers dy;

  Case(int64_t B_, const std::vector<int64_t>& sizes) : B(B_) {
    for (size_t l = 0; l + 1 < sizes.size(); ++l) {
      const int64_t I = sizes[l], O = sizes[l + 1];
      layers.push_back({I, O, coin(), coin(), randoms<double>(O * I), randoms<double>(B * I),
                        randoms<double>(B * O), Numbers(O * I), Numbers(O)});
    }
    dy = randoms<double>(B * sizes.back());
  }

  // Calls until all paths are walked; returns {paths, multiplications, calls}.
  std::array<int64_t, 3> walk(double seconds, int64_t paths) {
    std::vector<PathSumLayer> given;
    for (Layer& l : layers)
      given.push_back({l.I, l.O, l.w.data(), l.a.data(), l.sloped ? l.s.data() : nullptr,
                       l.dw.data(), l.biased ? l.db.data() : nullptr});
    int64_t walked = 0, multiplications = 0, calls = 0;
    for (; walked < paths && calls <= paths; ++calls)
      cpu::path_sum({given.data(), static_cast<int64_t>(given.size()), B, dy.data(), seconds,
                     &walked, &multiplications},
                    {});
    return {walked, multiplications, calls};
  }

  int64_t paths() const {
    int64_t total = 0, above = 1;
    for (size_t l = layers.size(); l-- > 0;) {
      above *= layers[l].O;
      total += above * (layers[l].I + layers[l].biased);
    }
    return total;
  }
};

// dz [B,O] of each layer by backpropagation, and against what the paths gave.
void check_gradients(const Case& c) {
  Numbers da = c.dy, magnitudes(c.dy.size(), 1);
  for (size_t l = c.layers.size(); l-- > 0;) {
    const Layer& layer = c.layers[l];
    Numbers below(c.B * layer.I), sizes_below(c.B * layer.I);
    Numbers dw(layer.dw.size()), db(layer.O), size(layer.O);
    for (int64_t b = 0; b < c.B; ++b)
      for (int64_t o = 0; o < layer.O; ++o) {
        const double dz = da[b * layer.O + o] * (layer.sloped ? layer.s[b * layer.O + o] : 1);
        db[o] += dz;
        size[o] += magnitudes[b * layer.O + o];
        for (int64_t i = 0; i < layer.I; ++i) {
          dw[o * layer.I + i] += dz * layer.a[b * layer.I + i];
          below[b * layer.I + i] += dz * layer.w[o * layer.I + i];
          sizes_below[b * layer.I + i] += magnitudes[b * layer.O + o];
        }
      }
    for (int64_t o = 0; o < layer.O; ++o) {
      near(layer.db[o], layer.biased ? db[o] : 0, size[o], "db", o);
      for (int64_t i = 0; i < layer.I; ++i)
        near(layer.dw[o * layer.I + i], dw[o * layer.I + i], size[o], "dw", o * layer.I + i);
    }
    da = below;
    magnitudes = sizes_below;
  }
}

}  // namespace

void test_path_sum() {
  for (int trial = 0; trial < 60; ++trial) {
    std::vector<int64_t> sizes(2 + rng() % 4);
    for (int64_t& n : sizes) n = 1 + rng() % 4;
    Case whole(pick<int64_t>({1, 2, 5, trial % 10 ? 3 : 40'000}), sizes), parts = whole;
    begin_case("path_sum B", whole.B, "layers", sizes.size() - 1, "I", sizes[0]);
    const auto once = whole.walk(1e9, whole.paths());
    check_gradients(whole);
    const auto often = parts.walk(0, parts.paths());
    ++compared;
    if (once[0] != whole.paths() || once[2] != 1) fail("not all paths were walked");
    if (often[0] != once[0] || often[1] != once[1]) fail("other counts in several calls");
    for (size_t l = 0; l < whole.layers.size(); ++l)
      if (whole.layers[l].dw != parts.layers[l].dw || whole.layers[l].db != parts.layers[l].db)
        fail("other bits in several calls");
  }
}

}  // namespace gdext::test
