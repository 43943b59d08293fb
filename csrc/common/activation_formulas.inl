// y = f(z), f'(z) and f''(z) of every activation, the formula once for CPU and CUDA. T is a number,
// or a vector of numbers computed lane by lane.
//
// Included inside a namespace that has, for its types T: element_t<T>, splat<T>(number),
// select(condition, T, T), abs, exp, expm1, log1p, tanh and erf. Functions of vectors must be
// compiled for the instruction set that has those vectors, hence inside of its namespace.

constexpr double kScaledTanhA = 1.7159, kScaledTanhB = 2.0 / 3.0, kLeakySlope = 0.01;
constexpr double kSoftplusThreshold = 20.0;

template <class T>
GDEXT_HD inline T sigmoid(T z) {
  using E = element_t<T>;
  return E(1) / (E(1) + exp(-z));
}
template <class T>
GDEXT_HD inline T normal_cdf(T z) {
  using E = element_t<T>;
  return E(0.5) * (E(1) + erf(z * E(0.70710678118654752440)));
}
template <class T>
GDEXT_HD inline T normal_pdf(T z) {
  using E = element_t<T>;
  return E(0.39894228040143267794) * exp(E(-0.5) * z * z);
}
// 1 - tanh(u)^2, which in that form would cancel where tanh is near 1.
template <class T>
GDEXT_HD inline T sech2(T u) {
  using E = element_t<T>;
  const T e = exp(E(-2) * abs(u));
  return E(4) * e / ((E(1) + e) * (E(1) + e));
}
// gelu_tanh(z) = 0.5 z (1 + tanh(u)), u = k (z + c z^3).
template <class T>
struct GeluTanh {
  using E = element_t<T>;
  static constexpr E k = E(0.79788456080286535588), c = E(0.044715);
  T u, du, d2u;  // u, du/dz, d2u/dz2
  GDEXT_HD explicit GeluTanh(T z)
      : u(k * (z + c * z * z * z)), du(k * (E(1) + 3 * c * z * z)), d2u(k * 6 * c * z) {}
};

// F is a template parameter, so that a loop over elements holds no branch on it (with_activation).
template <Activation F, class T>
GDEXT_HD inline T activate(T z) {
  using E = element_t<T>;
  if constexpr (F == Activation::identity) return z;
  // NaN must pass through, hence the comparison this way round.
  if constexpr (F == Activation::relu) return select(z <= E(0), splat<T>(E(0)), z);
  if constexpr (F == Activation::leaky_relu) return select(z > E(0), z, E(kLeakySlope) * z);
  if constexpr (F == Activation::elu) return select(z > E(0), z, expm1(z));
  if constexpr (F == Activation::sigmoid) return sigmoid(z);
  if constexpr (F == Activation::tanh) return tanh(z);
  if constexpr (F == Activation::scaled_tanh) return E(kScaledTanhA) * tanh(E(kScaledTanhB) * z);
  if constexpr (F == Activation::softplus)
    return select(z > E(kSoftplusThreshold), z, log1p(exp(z)));
  if constexpr (F == Activation::silu) return z * sigmoid(z);
  if constexpr (F == Activation::gelu) return z * normal_cdf(z);
  if constexpr (F == Activation::gelu_tanh) return E(0.5) * z * (E(1) + tanh(GeluTanh<T>(z).u));
}

// f'(z) from s.
template <Activation F, class T>
GDEXT_HD inline T activation_derivative(T s) {
  using E = element_t<T>;
  if constexpr (F == Activation::identity) return splat<T>(E(1));
  if constexpr (F == Activation::relu) return select(s <= E(0), splat<T>(E(0)), splat<T>(E(1)));
  if constexpr (F == Activation::leaky_relu)
    return select(s > E(0), splat<T>(E(1)), splat<T>(E(kLeakySlope)));
  if constexpr (F == Activation::elu) return select(s > E(0), splat<T>(E(1)), exp(s));
  if constexpr (F == Activation::sigmoid) return s * (E(1) - s);
  if constexpr (F == Activation::tanh) return E(1) - s * s;
  if constexpr (F == Activation::scaled_tanh)
    return E(kScaledTanhA * kScaledTanhB) * sech2(E(kScaledTanhB) * s);
  if constexpr (F == Activation::softplus)
    return select(s > E(kSoftplusThreshold), splat<T>(E(1)), sigmoid(s));
  if constexpr (F == Activation::silu) {
    const T p = sigmoid(s);
    return p * (E(1) + s * (E(1) - p));
  }
  if constexpr (F == Activation::gelu) return normal_cdf(s) + s * normal_pdf(s);
  if constexpr (F == Activation::gelu_tanh) {
    const GeluTanh<T> g(s);
    return E(0.5) * (E(1) + tanh(g.u) + s * sech2(g.u) * g.du);
  }
}

// dy f'(z) from s: the backward of y = f(z).
template <Activation F, class T>
GDEXT_HD inline T activation_backward(T dy, T s) {
  using E = element_t<T>;
  // Selected, not multiplied: a dead unit passes nothing on, infinite and NaN gradients neither.
  if constexpr (F == Activation::relu) return select(s <= E(0), splat<T>(E(0)), dy);
  return dy * activation_derivative<F>(s);
}

// f''(z) from s; only the backward of the backward needs it.
template <Activation F, class T>
GDEXT_HD inline T activation_second_derivative(T s) {
  using E = element_t<T>;
  if constexpr (F == Activation::identity || F == Activation::relu || F == Activation::leaky_relu)
    return splat<T>(E(0));
  if constexpr (F == Activation::elu) return select(s >= E(0), splat<T>(E(0)), exp(s));
  if constexpr (F == Activation::sigmoid) return s * (E(1) - s) * (E(1) - 2 * s);
  if constexpr (F == Activation::tanh) return E(-2) * s * (E(1) - s * s);
  if constexpr (F == Activation::scaled_tanh) {
    const T u = E(kScaledTanhB) * s;
    return E(-2 * kScaledTanhA * kScaledTanhB * kScaledTanhB) * tanh(u) * sech2(u);
  }
  if constexpr (F == Activation::softplus) {
    const T p = sigmoid(s);
    return select(s > E(kSoftplusThreshold), splat<T>(E(0)), p * (E(1) - p));
  }
  if constexpr (F == Activation::silu) {
    const T p = sigmoid(s), dp = p * (E(1) - p);
    return dp * (E(2) + s * (E(1) - 2 * p));
  }
  if constexpr (F == Activation::gelu) return normal_pdf(s) * (E(2) - s * s);
  if constexpr (F == Activation::gelu_tanh) {
    const GeluTanh<T> g(s);
    return sech2(g.u) * (g.du + s * (E(0.5) * g.d2u - tanh(g.u) * g.du * g.du));
  }
}

// What the backward's own backward hands on to z (contract/linear.h): gz = q dy f''(z).
template <Activation F, class T>
GDEXT_HD inline T activation_gz(T q, T dy, T s) {
  if constexpr (F == Activation::identity || F == Activation::relu || F == Activation::leaky_relu)
    return splat<T>(element_t<T>(0));  // not 0 * q * dy: NaN where one of them is infinite
  else
    return q * dy * activation_second_derivative<F>(s);
}
