// contract/path_sum.h on the CPU. Not in the table of instruction sets: a walk along a path is a
// chain of single multiplications, which vectors do not help.
#include "contract/path_sum.h"

#include <algorithm>
#include <chrono>
#include <vector>

namespace gdext::cpu {

namespace {

// Samples times paths between two looks at the clock: some milliseconds.
constexpr int64_t kWalksPerLook = 1 << 15;

// A path from layer l up: the unit that it goes through in each layer m >= l.
struct Path {
  const PathSumArgs& args;
  int64_t l;
  std::vector<int64_t> units;  // [L]; those below l mean nothing

  // The path of that number, counted with the last layer's unit changing fastest.
  Path(const PathSumArgs& args_, int64_t l_, int64_t unit, int64_t number)
      : args(args_), l(l_), units(args_.L) {
    units[l] = unit;
    for (int64_t m = args.L - 1; m > l; --m) {
      units[m] = number % args.layers[m].O;
      number /= args.layers[m].O;
    }
  }
  void next() {
    for (int64_t m = args.L - 1; m > l; --m) {
      if (++units[m] < args.layers[m].O) return;
      units[m] = 0;
    }
  }
  // dC/dz[l][b,units[l]] by way of this path.
  double derivative(int64_t b, int64_t& multiplications) const {
    double product = args.dy[b * args.layers[args.L - 1].O + units[args.L - 1]];
    for (int64_t m = args.L - 1; m >= l; --m) {
      const PathSumLayer& layer = args.layers[m];
      if (layer.s) {
        product *= layer.s[b * layer.O + units[m]];
        ++multiplications;
      }
      if (m > l) {
        product *= layer.w[units[m] * layer.I + units[m - 1]];
        ++multiplications;
      }
    }
    return product;
  }
};

// Adds the paths [begin, end) of one parameter: weight j of the unit, or its bias where j = I.
void walk(const PathSumArgs& args, int64_t l, int64_t unit, int64_t j, int64_t begin, int64_t end) {
  const PathSumLayer& layer = args.layers[l];
  double& gradient = j < layer.I ? layer.dw[unit * layer.I + j] : layer.db[unit];
  double sum = gradient;
  int64_t multiplications = 0;
  Path path(args, l, unit, begin);
  for (int64_t n = begin; n < end; ++n, path.next()) {
    for (int64_t b = 0; b < args.B; ++b) {
      double product = path.derivative(b, multiplications);
      if (j < layer.I) {
        product *= layer.a[b * layer.I + j];
        ++multiplications;
      }
      sum += product;
    }
  }
  gradient = sum;
  *args.multiplications += multiplications;
}

}  // namespace

void path_sum(const PathSumArgs& args, Context) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto late = [&] {
    return std::chrono::duration<double>(Clock::now() - start).count() > args.seconds;
  };
  const int64_t block = std::max<int64_t>(kWalksPerLook / args.B, 1);
  int64_t skip = *args.walked;
  for (int64_t l = 0; l < args.L; ++l) {
    const PathSumLayer& layer = args.layers[l];
    int64_t paths = 1;  // from each unit of this layer
    for (int64_t m = l + 1; m < args.L; ++m) paths *= args.layers[m].O;
    const int64_t columns = layer.I + (layer.db ? 1 : 0);
    for (int64_t p = 0; p < layer.O * columns; ++p) {
      int64_t begin = std::min(skip, paths);
      skip -= begin;
      while (begin < paths) {
        const int64_t end = std::min(begin + block, paths);
        walk(args, l, p / columns, p % columns, begin, end);
        *args.walked += end - begin;
        begin = end;
        if (late()) return;
      }
    }
  }
}

}  // namespace gdext::cpu
