// The activations over rows of numbers. An element's result has the same bits wherever it stands:
// the last ones of a row go through the same vector code as the others.

// values[i] <- f(values[i]), i in [0, n)
template <Activation F, class A>
void activate_row(A* values, int64_t n) {
  for_each_lanes<A>(0, n,
                    [=](auto lanes) { lanes.store(values, activate<F>(lanes.load(values))); });
}

// dz[i] <- dy[i] f'(z[i]) from s; dz may be dy
template <Activation F, class T, class TZ>
void activation_backward_row(const T* dy, const T* s, TZ* dz, int64_t n) {
  for_each_lanes<acc_t<T>>(0, n, [=](auto lanes) {
    lanes.store(dz, activation_backward<F>(lanes.load(dy), lanes.load(s)));
  });
}
