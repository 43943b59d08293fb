// One step of contract/mlp.h in naive loops.
#pragma once
#include "bounded.h"
#include "contract/mlp.h"
#include "harness.h"

namespace gdext::test {

struct MlpCase {
  std::vector<int64_t> sizes;  // I of the first layer, then each layer's O
  int64_t B, samples;
  Activation hidden;
  MlpLoss loss;
  Reduction reduction;
  int threads;
  bool bytes, ordered, biased, transposed, momentum, first, weighted, sparse;
  MlpForm form = MlpForm::best;  // cuda
  int blocks = 0;
  bool plain = false, maximize = false;  // plain: p -= lr g, without momentum and all the rest
};

template <class T>
struct Parameter {
  int64_t O, I;
  int64_t row_stride, col_stride;
  std::vector<T> p, m;

  Parameter(int64_t O, int64_t I, const MlpCase& c, double size)
      : O(O),
        I(I),
        row_stride(c.transposed ? 1 : I),
        col_stride(c.transposed ? O : 1),
        p(randoms<T>(O * I, -size, size)),
        m(!c.momentum ? std::vector<T>()
          : c.first   ? unwritten<T>(O * I)
                      : randoms<T>(O * I, -size, size)) {}
  int64_t at(int64_t o, int64_t i) const { return o * row_stride + i * col_stride; }
  MlpParameter argument(const MlpCase& c, int group) {
    return {p.data(),   row_stride, col_stride, c.momentum ? m.data() : nullptr,
            row_stride, col_stride, c.first,    group};
  }
};

template <class T>
struct Layer {
  Parameter<T> w, b;
};

// One call's options and random inputs, and the network before it.
template <class T>
struct MlpProblem {
  static constexpr int kGroups = 2;  // weights, biases
  static constexpr int64_t kN = 64, kIgnored = -100;
  static constexpr double kScale = 0.0078125, kShift = -0.5, kSmoothing = 0.125;

  explicit MlpProblem(const MlpCase& options) : c(options) {
    for (size_t l = 1; l < c.sizes.size(); ++l) {
      const double size = 1 / std::sqrt(static_cast<double>(c.sizes[l - 1]));
      layers.push_back({Parameter<T>(c.sizes[l], c.sizes[l - 1], c, size),
                        Parameter<T>(c.sizes[l], c.biased ? 1 : 0, c, 0.5)});
    }
    const int64_t I = c.sizes.front();
    inputs = randoms<T>(kN * I);
    bytes.resize(kN * I);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(rng());
    if (c.sparse)
      for (int64_t i = 0; i < I; ++i)
        if (i % 3 != 0)
          for (int64_t n = 0; n < kN; ++n)
            inputs[n * I + i] = from_double<T>(0), bytes[n * I + i] = 0;
    for (int64_t n = 0; n < c.samples; ++n) order.push_back(static_cast<int64_t>(rng() % kN));
    if (!c.ordered)
      for (int64_t n = 0; n < c.samples; ++n) order[n] = n;
    for (int64_t n = 0; n < kN; ++n)
      classes.push_back(n % 5 == 4 ? kIgnored : static_cast<int64_t>(rng() % outputs()));
    targets = randoms<T>(kN * outputs());
    class_weight = randoms<T>(outputs(), 0.5, 2);
    lr.resize(kGroups * c.samples);
    for (double& rate : lr) rate = pick({0.0625, 0.125, 0.25});
  }

  int64_t outputs() const { return c.sizes.back(); }
  double shift() const { return c.sparse ? 0 : kShift; }
  Activation activation(size_t l) const {
    return l + 1 < layers.size() ? c.hidden : Activation::identity;
  }
  MlpGroup group(int g) const {
    if (c.plain) return {0, 0, 0, false, c.maximize};
    return {c.momentum ? 0.75 : 0, g ? 0.25 : 0, g ? 0 : 0.03125, g == 1, g == 1};
  }

  MlpCase c;
  std::vector<Layer<T>> layers;
  std::vector<T> inputs, targets, class_weight;
  std::vector<uint8_t> bytes;
  std::vector<int64_t> order, classes;
  std::vector<double> lr;  // [steps, kGroups] and more
};

// The first step's loss, and its gradients with respect to the weights and biases of each layer.
template <class T>
class NaiveStep {
 public:
  Bounded loss;
  std::vector<std::vector<Bounded>> dw, db;  // [L] of [O][I], of [O]

  explicit NaiveStep(const MlpProblem<T>& in) : in_(in) {
    const int64_t B = std::min(in_.c.B, in_.c.samples);
    const size_t L = in_.layers.size();
    std::vector<std::vector<Bounded>> z(L), h(L + 1);
    for (int64_t b = 0; b < B; ++b)
      for (int64_t i = 0; i < in_.c.sizes.front(); ++i) h[0].push_back(input(in_.order[b], i));
    for (size_t l = 0; l < L; ++l) forward(l, B, h[l], z[l], h[l + 1]);

    std::vector<Bounded> dh = loss_gradient(B, h[L]);
    dw.resize(L), db.resize(L);
    for (size_t l = L; l-- > 0;) {
      const int64_t I = in_.c.sizes[l], O = in_.c.sizes[l + 1];
      std::vector<Bounded> dz(B * O);
      for (int64_t at = 0; at < B * O; ++at)
        dz[at] = dh[at] * slope<T>(in_.activation(l), z[l][at], h[l + 1][at]);
      if (kOnCuda)
        for (Bounded& d : dz) d = stored<T>(d);
      for (int64_t o = 0; o < O; ++o) {
        Sum<T> sum_b;
        for (int64_t b = 0; b < B; ++b) sum_b.add(dz[b * O + o], {1, 0});
        db[l].push_back(stored<T>(sum_b.result()));
        for (int64_t i = 0; i < I; ++i) {
          Sum<T> sum_w;
          for (int64_t b = 0; b < B; ++b) sum_w.add(dz[b * O + o], h[l][b * I + i]);
          dw[l].push_back(stored<T>(sum_w.result()));
        }
      }
      dh.clear();
      for (int64_t b = 0; b < B; ++b)
        for (int64_t i = 0; i < I; ++i) {
          Sum<T> dx;
          for (int64_t o = 0; o < O; ++o) dx.add(dz[b * O + o], weight(l, o, i));
          dh.push_back(stored<T>(dx.result()));
        }
    }
  }

 private:
  using P = MlpProblem<T>;

  Bounded input(int64_t n, int64_t i) const {
    const int64_t at = n * in_.c.sizes.front() + i;
    if (!in_.c.bytes) return {value(in_.inputs[at]), 0};
    return stored<T>({P::kScale * in_.bytes[at] + in_.shift(), slack<T>(1)});
  }
  Bounded weight(size_t l, int64_t o, int64_t i) const {
    const Parameter<T>& w = in_.layers[l].w;
    return {value(w.p[w.at(o, i)]), 0};
  }

  void forward(size_t l, int64_t B, const std::vector<Bounded>& x, std::vector<Bounded>& z,
               std::vector<Bounded>& y) const {
    const int64_t I = in_.c.sizes[l], O = in_.c.sizes[l + 1];
    for (int64_t b = 0; b < B; ++b)
      for (int64_t o = 0; o < O; ++o) {
        Sum<T> sum;
        for (int64_t i = 0; i < I; ++i) sum.add(x[b * I + i], weight(l, o, i));
        if (in_.c.biased) sum.add({value(in_.layers[l].b.p[o]), 0}, {1, 0});
        z.push_back(sum.result());
        constexpr double kSteepest = 1.2;  // of f, any activation
        y.push_back(stored<T>(through<T>(
            z.back(), kSteepest, [&](double v) { return activated(in_.activation(l), v); })));
      }
  }

  std::vector<Bounded> loss_gradient(int64_t B, const std::vector<Bounded>& x) {
    const int64_t C = in_.outputs();
    const auto weight = [&](int64_t c) {
      return in_.c.weighted ? value(in_.class_weight[c]) : 1.0;
    };
    double norm = 0;
    for (int64_t b = 0; b < B; ++b)
      if (const int64_t t = in_.classes[in_.order[b]]; t != P::kIgnored) norm += weight(t);
    if (in_.c.loss == MlpLoss::mse) norm = static_cast<double>(B * C);
    if (in_.c.reduction == Reduction::sum) norm = 1;

    loss = {};
    std::vector<Bounded> dx;
    for (int64_t b = 0; b < B; ++b)
      if (in_.c.loss == MlpLoss::mse)
        mse(in_.order[b], norm, &x[b * C], dx);
      else
        cross_entropy(in_.classes[in_.order[b]], norm, &x[b * C], weight, dx);
    return dx;
  }

  void mse(int64_t n, double norm, const Bounded* x, std::vector<Bounded>& dx) {
    for (int64_t c = 0; c < in_.outputs(); ++c) {
      const Bounded difference = x[c] + Bounded{-value(in_.targets[n * in_.outputs() + c]), 0};
      const double size = std::fabs(difference.value);
      loss = loss + difference * difference * Bounded{1 / norm, 0};
      loss.error += slack<T>((size + size * size) / norm);
      Bounded d = Bounded{2 / norm, 0} * difference;
      d.error += slack<T>(size / norm);
      dx.push_back(stored<T>(d));
    }
  }

  template <class W>
  void cross_entropy(int64_t t, double norm, const Bounded* x, const W& weight,
                     std::vector<Bounded>& dx) {
    const int64_t C = in_.outputs();
    const double smoothing = in_.c.weighted ? P::kSmoothing : 0, classes = static_cast<double>(C);
    double sum = 0, m = -INFINITY, error = 0, a = 0;
    for (int64_t c = 0; c < C; ++c)
      m = std::max(m, x[c].value), error = std::max(error, x[c].error);
    for (int64_t c = 0; c < C; ++c) sum += std::exp(x[c].value - m);
    const auto q = [&](int64_t c) {
      return t == P::kIgnored ? 0 : weight(c) * ((c == t) * (1 - smoothing) + smoothing / classes);
    };
    for (int64_t c = 0; c < C; ++c) a += q(c);
    for (int64_t c = 0; c < C; ++c) {
      const double log_p = x[c].value - m - std::log(sum), p = std::exp(log_p);
      loss.value -= q(c) * log_p / norm;
      loss.error += (q(c) * 2 * error + slack<T>(q(c) * (std::fabs(m) + 5))) / norm;
      const double g = t == P::kIgnored ? 0 : 1 / norm;
      dx.push_back(stored<T>(
          {g * (a * p - q(c)), g * (a * 2 * error + slack<T>((a + 1) * (std::fabs(m) + 5)))}));
    }
  }

  const P& in_;
};

}  // namespace gdext::test
