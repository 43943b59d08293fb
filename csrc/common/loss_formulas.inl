// The formulas of the losses (contract/mse.h, contract/cross_entropy.h), once for CPU and CUDA. T
// and the namespace to include this in: as for activation_formulas.inl.

template <class T>
GDEXT_HD inline T squared_error(T x, T t, T w) {
  return w * (x - t) * (x - t);
}
// d(squared_error)/dx times g; linear in g, as both backward passes use it. g comes first: 2 w (x -
// t) alone may overflow where the product does not.
template <class T>
GDEXT_HD inline T squared_error_dx(T x, T t, T w, T g) {
  return element_t<T>(2) * w * g * (x - t);
}

// q[c] of one sample, contract/cross_entropy.h's target distribution: `hit` is [c == t] or t[c].
template <class T>
GDEXT_HD inline T smoothed_target(T hit, T w, element_t<T> label_smoothing, element_t<T> classes) {
  return w * ((element_t<T>(1) - label_smoothing) * hit + label_smoothing / classes);
}
// l = log sum_c exp(x[c] - m) from its terms: `ties` of them, those of the largest logit m, are 1,
// `rest` is the sum of the others. Exact to the last digits also where l is tiny, that is where one
// class has nearly all of the probability. Where m is infinite or NaN so is every log p.
template <class T>
GDEXT_HD inline T log_sum_exp(T m, T ties, T rest) {
  using E = element_t<T>;
  return select(m - m == E(0), log1p(rest + (ties - E(1))), splat<T>(E(NAN)));
}
// log p[c] from the sample's stats m and l.
template <class T>
GDEXT_HD inline T log_probability(T x, element_t<T> m, element_t<T> l) {
  return (x - m) - l;
}
