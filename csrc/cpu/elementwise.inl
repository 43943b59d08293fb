// The activations over rows of numbers (common/activation.h has the formulas).

// values[i] <- f(values[i]), i in [0, n)
template <Activation F, class A>
void activate_row(A* values, int64_t n) {
  for (int64_t i = 0; i < n; ++i) values[i] = activate<F>(values[i]);
}

// dz[i] <- dy[i] f'(z[i]) from s; dz may be dy
template <Activation F, class A>
void activation_backward_row(const A* dy, const A* s, A* dz, int64_t n) {
  for (int64_t i = 0; i < n; ++i) dz[i] = activation_backward<F>(dy[i], s[i]);
}
