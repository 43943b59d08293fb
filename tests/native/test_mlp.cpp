// contract/mlp.h: one step, and its gradients, against the naive one; many steps against as many
// calls of one step, bit by bit.
#include <functional>
#include <memory>
#include <new>

#include "contract/mlp.h"
#include "naive_mlp.h"

namespace gdext::test {
namespace {

// Memory of just `bytes` bytes, aligned as the kernel wants it, and filled with NaN.
class Buffer {
 public:
  explicit Buffer(int64_t bytes) : data_(::operator new(bytes, kAlignment)) {
    memset(data_.get(), 0xff, bytes);
  }
  void* data() { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Delete {
    void operator()(void* data) const { ::operator delete(data, kAlignment); }
  };
  std::unique_ptr<void, Delete> data_;
};

template <class T>
class MlpTest {
 public:
  explicit MlpTest(const MlpCase& c) : in_(c) {}

  // The first step, alone.
  void check_step() {
    MlpTest after = *this;
    double loss = NAN;
    Call call = after.call();
    call.args.samples = std::min(in_.c.B, in_.c.samples);
    call.args.losses = &loss;
    run(call);
    const NaiveStep<T> want(in_);
    check("loss", 0, loss, want.loss);
    for (size_t l = 0; l < in_.layers.size(); ++l) {
      const Layer<T>&now = after.in_.layers[l], &old = in_.layers[l];
      check_update(l, false, now.w, old.w, want.dw[l]);
      if (in_.c.biased) check_update(l, true, now.b, old.b, want.db[l]);
    }
  }

  // The first step's gradients in place of its update.
  void check_gradients() {
    using A = acc_t<T>;
    MlpTest after = *this;
    std::vector<std::vector<A>> dw, db;
    for (const Layer<T>& layer : in_.layers) {
      dw.push_back(unwritten<A>(layer.w.O * layer.w.I));
      db.push_back(unwritten<A>(layer.b.O * layer.b.I));
    }
    double loss = NAN;
    Call call = after.call([&](std::vector<MlpLayer>& layers) {
      for (size_t l = 0; l < layers.size(); ++l) {
        layers[l].w.gradient = dw[l].data();
        if (in_.c.biased) layers[l].b.gradient = db[l].data();
      }
    });
    call.args.samples = std::min(in_.c.B, in_.c.samples);
    call.args.lr = nullptr;
    call.args.losses = &loss;
    run(call);
    const NaiveStep<T> want(in_);
    check("loss", 0, loss, want.loss);
    for (size_t l = 0; l < in_.layers.size(); ++l) {
      const std::string of_layer = " of layer " + std::to_string(l);
      for (size_t i = 0; i < dw[l].size(); ++i) check("dw" + of_layer, i, dw[l][i], want.dw[l][i]);
      for (size_t i = 0; i < db[l].size(); ++i) check("db" + of_layer, i, db[l][i], want.db[l][i]);
      same_bits("w, where a gradient is wanted", after.in_.layers[l].w.p, in_.layers[l].w.p);
      same_bits("b, where a gradient is wanted", after.in_.layers[l].b.p, in_.layers[l].b.p);
      same_bits("momentum of w, likewise", after.in_.layers[l].w.m, in_.layers[l].w.m);
      same_bits("momentum of b, likewise", after.in_.layers[l].b.m, in_.layers[l].b.m);
    }
  }

  // All steps in one call, and in a call for each.
  void check_bits() {
    MlpTest together = *this, apart = *this;
    auto losses = unwritten<double>((in_.c.samples + in_.c.B - 1) / in_.c.B), losses_apart = losses;
    Call call = together.call();
    call.args.losses = losses.data();
    run(call);
    apart.run_apart(losses_apart);
    for (size_t l = 0; l < in_.layers.size(); ++l) {
      const Layer<T>&a = together.in_.layers[l], &b = apart.in_.layers[l];
      same_bits("w", a.w.p, b.w.p);
      same_bits("b", a.b.p, b.b.p);
      same_bits("momentum of w", a.w.m, b.w.m);
      same_bits("momentum of b", a.b.m, b.b.m);
    }
    same_bits("losses", losses, losses_apart);
  }

 private:
  using P = MlpProblem<T>;

  struct Call {
    std::vector<MlpLayer> layers;
    std::unique_ptr<Buffer> packed, scratch;
    MlpArgs args;
  };

  // `change` may add to the layers, before memory is taken for them.
  Call call(const std::function<void(std::vector<MlpLayer>&)>& change = nullptr) {
    Call call;
    for (size_t l = 0; l < in_.layers.size(); ++l)
      call.layers.push_back({in_.c.sizes[l], in_.c.sizes[l + 1], in_.activation(l),
                             in_.layers[l].w.argument(in_.c, 0),
                             in_.c.biased ? in_.layers[l].b.argument(in_.c, 1) : MlpParameter{}});
    if (change) change(call.layers);
    groups_ = {in_.group(0), in_.group(1)};
    MlpArgs& args = call.args;
    args = {.dtype = dtype_of<T>(),
            .layers = call.layers.data(),
            .L = static_cast<int64_t>(call.layers.size()),
            .groups = groups_.data(),
            .group_count = P::kGroups,
            .inputs = in_.c.bytes ? static_cast<const void*>(in_.bytes.data()) : in_.inputs.data(),
            .input_row_stride = in_.c.sizes.front(),
            .input_bytes = in_.c.bytes,
            .input_scale = P::kScale,
            .input_shift = in_.shift(),
            .targets = in_.c.loss == MlpLoss::mse ? static_cast<const void*>(in_.targets.data())
                                                  : in_.classes.data(),
            .order = in_.c.ordered ? in_.order.data() : nullptr,
            .samples = in_.c.samples,
            .B = in_.c.B,
            .lr = in_.lr.data(),
            .loss = in_.c.loss,
            .reduction = in_.c.reduction,
            .class_weight = in_.c.weighted ? in_.class_weight.data() : nullptr,
            .ignore_index = P::kIgnored,
            .label_smoothing = in_.c.weighted ? P::kSmoothing : 0,
            .norms = nullptr,
            .threads = in_.c.threads,
            .packed = nullptr,
            .scratch = nullptr,
            .seconds = 1e9,
            .losses = nullptr,
            .form = change ? MlpForm::layers : in_.c.form,  // which alone leaves gradients
            .blocks = in_.c.blocks};
    const MlpSizes sizes = backend::mlp_sizes(args);
    call.packed = std::make_unique<Buffer>(sizes.packed);
    call.scratch = std::make_unique<Buffer>(sizes.scratch);
    args.packed = call.packed->data();
    args.scratch = call.scratch->data();
    return call;
  }

  static void run(const Call& call) {
    const MlpArgs& args = call.args;
    const int64_t done = backend::mlp(args, {}), steps = (args.samples + args.B - 1) / args.B;
    if (done != steps)
      fail("did " + std::to_string(done) + " of " + std::to_string(steps) + " steps");
  }

  void run_apart(std::vector<double>& losses) {
    for (size_t n = 0; n < losses.size(); ++n) {
      if (n > 0) in_.c.first = false;
      Call one = call();
      const int64_t first = static_cast<int64_t>(n) * in_.c.B;
      const auto from = [&](auto* rows, int64_t width) { return rows + first * width; };
      if (in_.c.ordered) {
        one.args.order = in_.order.data() + first;
      } else {
        const int64_t I = in_.c.sizes.front();
        if (in_.c.bytes)
          one.args.inputs = from(in_.bytes.data(), I);
        else
          one.args.inputs = from(in_.inputs.data(), I);
        if (in_.c.loss == MlpLoss::mse)
          one.args.targets = from(in_.targets.data(), in_.outputs());
        else
          one.args.targets = from(in_.classes.data(), 1);
      }
      one.args.samples = std::min(in_.c.B, in_.c.samples - first);
      one.args.lr = from(in_.lr.data(), P::kGroups) - first * P::kGroups + n * P::kGroups;
      one.args.losses = &losses[n];
      run(one);
    }
  }

  template <class E>
  static void same_bits(const char* what, const std::vector<E>& a, const std::vector<E>& b) {
    compared += static_cast<long>(a.size());
    if (a.size() != b.size() || (!a.empty() && memcmp(a.data(), b.data(), a.size() * sizeof(E))))
      fail(std::string(what) + ": other bits than they must have");
  }
  static void check(const std::string& what, int64_t at, double got, const Bounded& want) {
    ++compared;
    if (std::isnan(want.value) ? std::isnan(got) : std::fabs(got - want.value) <= want.error)
      return;
    std::ostringstream text;
    text.precision(9);
    text << what << "[" << at << "]: got " << got << ", want " << want.value << " within "
         << want.error;
    fail(text.str());
  }

  // The update of one parameter of layer l, a bias or a weight, for its gradient [O][I].
  void check_update(size_t l, bool bias, const Parameter<T>& after, const Parameter<T>& before,
                    const std::vector<Bounded>& gradient) {
    const auto exactly = [](double v) { return Bounded{v, 0}; };
    const MlpGroup options = in_.group(bias);
    const std::string name = (bias ? "b of layer " : "w of layer ") + std::to_string(l);
    for (int64_t o = 0; o < before.O; ++o)
      for (int64_t i = 0; i < before.I; ++i) {
        const int64_t at = before.at(o, i);
        const double p = value(before.p[at]), sign = options.maximize ? -1 : 1;
        Bounded d = exactly(sign) * gradient[o * before.I + i] + exactly(options.weight_decay * p);
        d.error += slack<T>(std::fabs(p) + std::fabs(d.value));
        if (in_.c.momentum) {
          Bounded m = d;
          if (!in_.c.first)
            m = exactly(options.momentum * value(before.m[at])) +
                exactly(1 - options.dampening) * d;
          m.error += slack<T>(1);
          check("momentum of " + name, at, value(after.m[at]), stored<T>(m));
          d = options.nesterov ? d + exactly(options.momentum) * m : m;
        }
        Bounded want = exactly(p) + exactly(-in_.lr[bias]) * d;
        want.error += slack<T>(std::fabs(p) + std::fabs(d.value));
        check(name, at, value(after.p[at]), stored<T>(want));
      }
  }

  P in_;
  std::vector<MlpGroup> groups_;
};

template <class T>
void check(const MlpCase& c) {
  std::ostringstream sizes;
  for (int64_t size : c.sizes) sizes << size << '-';
  begin_case("mlp", sizes.str(), "B", c.B, "samples", c.samples, "hidden", int(c.hidden), "loss",
             int(c.loss), "reduction", int(c.reduction), "threads", c.threads, "bytes", c.bytes,
             "ordered", c.ordered, "biased", c.biased, "transposed", c.transposed, "momentum",
             c.momentum, "first", c.first, "weighted", c.weighted, "sparse", c.sparse, "plain",
             c.plain, "maximize", c.maximize);
  MlpTest<T> test(c);
  test.check_step();
  test.check_gradients();
  test.check_bits();
}

MlpCase any_case(std::vector<int64_t> sizes, int64_t B, int64_t steps, Activation hidden) {
  return {.sizes = std::move(sizes),
          .B = B,
          .samples = std::min<int64_t>((steps - 1) * B + pick<int64_t>({1, B}), 64),
          .hidden = hidden,
          .loss = pick({MlpLoss::cross_entropy, MlpLoss::mse}),
          .reduction = pick({Reduction::mean, Reduction::sum}),
          .threads = pick({1, 2, 3, 4}),
          .bytes = coin(),
          .ordered = coin(),
          .biased = coin(),
          .transposed = coin(),
          .momentum = coin(),
          .first = coin(),
          .weighted = coin(),
          .sparse = coin()};
}

}  // namespace

// On CUDA, where each is a thousand fibers, fewer and smaller ones.
template <class T>
void test_mlp() {
  const auto any_size = [] {
    return kOnCuda ? pick<int64_t>({1, 2, 7, 16, 31, 33})
                   : pick<int64_t>({1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65});
  };
  for (int trial = 0; trial < (kOnCuda ? kActivations : 6 * kActivations); ++trial) {
    std::vector<int64_t> sizes{any_size()};
    for (int l = pick({1, 2, 3}); l > 0; --l) sizes.push_back(any_size());
    const int64_t B = pick<int64_t>({1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 17, 31, 32, 33});
    MlpCase c = any_case(sizes, B, pick<int64_t>({1, 2, 3}), Activation(trial % kActivations));
    c.form = MlpForm::layers;
    check<T>(c);
  }
  if (kOnCuda) {
    // Steps enough for a graph; more biases than one kernel is told of.
    MlpCase many = any_case({3, 9, 4}, 1, 45, Activation::tanh);
    many.form = MlpForm::layers;
    check<T>(many);
    MlpCase deep = any_case(std::vector<int64_t>(20, 3), 2, 2, Activation::elu);
    deep.form = MlpForm::layers, deep.biased = true;
    check<T>(deep);
    return;
  }
  // Enough work that the layers are shared by threads: two gather apart, three together.
  for (int threads : {2, 3})
    for (int64_t B : {1, 2, 8, 9, 21})
      for (Activation f : {Activation::relu, Activation::gelu}) {
        MlpCase shared = any_case({150, 260, 130, 10}, B, 3, f);
        shared.threads = threads;
        check<T>(shared);
      }
  // A narrow layer in the middle, which is not split.
  for (int64_t B : {5, 8, 9}) {
    MlpCase narrow = any_case({300, 4, 400, 4, 300, 3}, B, 3, Activation::relu);
    narrow.threads = 3;
    check<T>(narrow);
  }
}

// The forms of CUDA that keep the parameters in shared memory: on clusters and grids, with slices
// that do not fill their tiles, and empty ones, for batches of any size that they take.
void test_mlp_resident() {
  const auto on = [&](MlpForm form, int blocks, std::vector<int64_t> sizes, int64_t B,
                      Activation f) {
    MlpCase c = any_case(std::move(sizes), B, 3, f);
    c.form = form, c.blocks = blocks;
    check<float>(c);
  };
  const auto any = [] { return Activation(rng() % kActivations); };
  on(MlpForm::cluster, 1, {33, 20, 5}, pick<int64_t>({1, 3}), any());
  on(MlpForm::cluster, 1, {5, 4, 66, 3, 10}, pick<int64_t>({2, 8}), any());
  on(MlpForm::cluster, 2, {7, 3}, pick<int64_t>({1, 2, 4, 8}), any());
  on(MlpForm::cluster, 2, {18, 35, 17, 9}, 1, Activation::relu);
  on(MlpForm::cluster, 4, {18, 35, 17, 9}, pick<int64_t>({2, 5}), any());
  on(MlpForm::cluster, 4, {6, 9, 70, 40, 3}, 1, any());
  on(MlpForm::grid, 3, {40, 90, 12}, pick<int64_t>({4, 7}), any());
  on(MlpForm::grid, 5, {18, 35, 17, 33, 2}, 1, any());
  on(MlpForm::cluster, 16, {9, 40, 21, 5}, pick<int64_t>({1, 2}), any());
  for (const bool maximize : {false, true}) {
    MlpCase c = any_case({18, 35, 9}, pick<int64_t>({1, 3}), 3, any());
    c.form = MlpForm::cluster, c.blocks = 2;
    c.momentum = false, c.plain = true, c.maximize = maximize;
    check<float>(c);
  }
}

GDEXT_TEST_FOR_ALL_DTYPES(test_mlp)

}  // namespace gdext::test
