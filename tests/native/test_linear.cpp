#include "contract/linear.h"
#include "harness.h"

namespace gdext::test {
namespace {

enum class Layout { contiguous, transposed, one_number, expanded_row, expanded_column, sliced };
constexpr int kLayouts = 6;

template <class T>
class StridedMatrix {
 public:
  StridedMatrix(int64_t rows, int64_t cols, Layout layout, double low = -1, double high = 1) {
    switch (layout) {
      case Layout::contiguous:
        row_stride_ = cols, col_stride_ = 1;
        break;
      case Layout::transposed:
        row_stride_ = 1, col_stride_ = rows;
        break;
      case Layout::one_number:
        row_stride_ = 0, col_stride_ = 0;
        break;
      case Layout::expanded_row:
        row_stride_ = 0, col_stride_ = 1;
        break;
      case Layout::expanded_column:
        row_stride_ = 1, col_stride_ = 0;
        break;
      case Layout::sliced:
        row_stride_ = 2 * cols + 3, col_stride_ = 2;
        break;
    }
    const bool empty = rows == 0 || cols == 0;
    data_ =
        randoms<T>(empty ? 0 : (rows - 1) * row_stride_ + (cols - 1) * col_stride_ + 1, low, high);
  }
  Matrix view() const { return {data_.data(), row_stride_, col_stride_}; }
  double operator()(int64_t r, int64_t c) const {
    return value(data_[r * row_stride_ + c * col_stride_]);
  }

 private:
  int64_t row_stride_ = 0, col_stride_ = 0;
  std::vector<T> data_;
};

struct LinearCase {
  int64_t B, I, O;
  Activation activation;
  Layout x = Layout::contiguous, w = Layout::contiguous, dy = Layout::contiguous;
  bool bias = true;
};

// A naive sum of products, with what bounds its rounding error.
struct DotProduct {
  double sum = 0, magnitude = 0;
  void add(double a, double b) {
    sum += a * b;
    magnitude += std::fabs(a * b);
  }
};

template <class T>
void check_forward(const LinearCase& c, const StridedMatrix<T>& x, const StridedMatrix<T>& w) {
  const auto b = randoms<T>(c.O);
  auto y = unwritten<T>(c.B * c.O), z = unwritten<T>(c.B * c.O);
  backend::linear({dtype_of<T>(), c.activation, c.B, c.I, c.O, x.view(), w.view(),
                   c.bias ? b.data() : nullptr, y.data(), z.data()},
                  {});
  for (int64_t r = 0; r < c.B; ++r)
    for (int64_t o = 0; o < c.O; ++o) {
      DotProduct dot;
      for (int64_t i = 0; i < c.I; ++i) dot.add(x(r, i), w(o, i));
      if (c.bias) dot.add(value(b[o]), 1);
      const int64_t at = r * c.O + o;
      near(z[at], dot.sum, dot.magnitude, "z", at);
      near(y[at], activated(c.activation, dot.sum), 2 * dot.magnitude + 1, "y", at);
    }
}

template <class T>
void check_backward(const LinearCase& c, const StridedMatrix<T>& x, const StridedMatrix<T>& w) {
  const bool identity = c.activation == Activation::identity;
  const StridedMatrix<T> dy(c.B, c.O, c.dy);
  const auto saved_layout = Layout((static_cast<int>(c.x) + 1) % kLayouts);
  const StridedMatrix<T> saved(c.B, c.O, saved_layout, 0.1, 0.9);
  auto dz = unwritten<backend::dz_t<T>>(identity ? 0 : c.B * c.O);
  auto dx = unwritten<T>(c.B * c.I), dw = unwritten<T>(c.O * c.I), db = unwritten<T>(c.O);
  LinearBackwardArgs args{dtype_of<T>(),
                          c.activation,
                          c.B,
                          c.I,
                          c.O,
                          dy.view(),
                          identity ? Matrix{} : saved.view(),
                          x.view(),
                          w.view(),
                          identity ? nullptr : dz.data(),
                          dx.data(),
                          dw.data(),
                          db.data()};
  backend::linear_backward(args, {});

  std::vector<double> dz_read(c.B * c.O);  // the kernel's own, once checked
  for (int64_t r = 0; r < c.B; ++r)
    for (int64_t o = 0; o < c.O; ++o) {
      const int64_t at = r * c.O + o;
      dz_read[at] = dy(r, o);
      if (identity) continue;
      if (c.activation == Activation::relu) {  // dy or 0, whatever type a kernel keeps it in
        dz_read[at] *= derivative(c.activation, saved(r, o));
        continue;
      }
      near(dz[at], dy(r, o) * derivative(c.activation, saved(r, o)), 1, "dz", at);
      dz_read[at] = value(dz[at]);
    }
  for (int64_t r = 0; r < c.B; ++r)
    for (int64_t i = 0; i < c.I; ++i) {
      DotProduct dot;
      for (int64_t o = 0; o < c.O; ++o) dot.add(dz_read[r * c.O + o], w(o, i));
      near(dx[r * c.I + i], dot.sum, dot.magnitude, "dx", r * c.I + i);
    }
  for (int64_t o = 0; o < c.O; ++o) {
    DotProduct bias;
    for (int64_t r = 0; r < c.B; ++r) bias.add(dz_read[r * c.O + o], 1);
    near(db[o], bias.sum, bias.magnitude, "db", o);
    for (int64_t i = 0; i < c.I; ++i) {
      DotProduct dot;
      for (int64_t r = 0; r < c.B; ++r) dot.add(dz_read[r * c.O + o], x(r, i));
      near(dw[o * c.I + i], dot.sum, dot.magnitude, "dw", o * c.I + i);
    }
  }

  // db alone: neither dx nor dw may be written, nor x or w, which only they need, be read.
  args.dx = args.dw = nullptr;
  args.x = args.w = Matrix{};
  auto db_alone = unwritten<T>(c.O);
  args.db = db_alone.data();
  backend::linear_backward(args, {});
  for (int64_t o = 0; o < c.O; ++o) near(db_alone[o], value(db[o]), 0, "db alone", o);
}

template <class T>
void check(const LinearCase& c) {
  begin_case("linear B", c.B, "I", c.I, "O", c.O, "activation", int(c.activation), "layouts",
             int(c.x), int(c.w), int(c.dy), "bias", c.bias);
  const StridedMatrix<T> x(c.B, c.I, c.x), w(c.O, c.I, c.w);
  check_forward(c, x, w);
  check_backward(c, x, w);
}

template <class T>
void check_activation_double_backward(int64_t n, Activation activation) {
  begin_case("activation_double_backward n", n, "activation", int(activation));
  const auto q = randoms<T>(n), dy = randoms<T>(n), s = randoms<T>(n, -3, 3);
  auto gdy = unwritten<T>(n), gz = unwritten<T>(n), dz = unwritten<T>(n);
  backend::activation_double_backward({dtype_of<T>(), activation, n, q.data(), dy.data(), s.data(),
                                       gdy.data(), gz.data(), dz.data()},
                                      {});
  for (int64_t i = 0; i < n; ++i) {
    const double first = derivative(activation, value(s[i]));
    const double second = second_derivative(activation, value(s[i]));
    near(gdy[i], value(q[i]) * first, 5, "gdy", i);
    near(gz[i], value(q[i]) * value(dy[i]) * second, 20, "gz", i);
    near(dz[i], value(dy[i]) * first, 5, "dz", i);
  }
}

int64_t any_size() {
  return pick<int64_t>(
      {0, 1, 2, 5, 6, 7, 11, 12, 13, 15, 16, 17, 24, 25, 31, 32, 33, 48, 49, 63, 64, 65});
}
Layout any_layout() { return Layout(rng() % kLayouts); }

}  // namespace

template <class T>
void test_linear() {
  for (int trial = 0; trial < 100; ++trial)
    check<T>({.B = any_size(),
              .I = any_size(),
              .O = any_size(),
              .activation = Activation(rng() % kActivations),
              .x = any_layout(),
              .w = any_layout(),
              .dy = any_layout(),
              .bias = coin()});
  for (int l = 0; l < kLayouts; ++l)
    check<T>({.B = 33,
              .I = 65,
              .O = 40,
              .activation = Activation(l),
              .x = Layout(l),
              .w = Layout((l + 1) % kLayouts),
              .dy = Layout((l + 2) % kLayouts)});
  // Enough tiles of 64 x 64 that gemm takes these, in the forward, dw and dx.
  constexpr int64_t kTwoTiles = 65, kManyTiles = 64 * 64 + 3;
  check<T>({.B = kTwoTiles, .I = 20, .O = kManyTiles, .activation = Activation::tanh});
  check<T>({.B = 20,
            .I = kManyTiles,
            .O = kTwoTiles,
            .activation = Activation::relu,
            .x = Layout::sliced,
            .w = Layout::transposed});
  check<T>({.B = kManyTiles,
            .I = kTwoTiles,
            .O = 19,
            .activation = Activation::gelu,
            .x = Layout::transposed,
            .w = Layout::sliced,
            .dy = Layout::transposed,
            .bias = false});
  for (int a = 0; a < kActivations; ++a)
    for (int64_t n : {0, 1, 255, 256, 257, 700})
      check_activation_double_backward<T>(n, Activation(a));
}

GDEXT_TEST_FOR_ALL_DTYPES(test_linear)

}  // namespace gdext::test
