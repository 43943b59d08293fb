// The loss of the whole-network step: for a range of samples its sum and dh, sample by sample.

// What divides the sum of the losses, contract/cross_entropy.h and mse.h; 1 unless the mean is
// taken.
template <class T>
double loss_norm(const MlpArgs& args, const int64_t* order, int64_t B, int64_t C) {
  if (args.reduction != Reduction::mean) return 1;
  if (args.loss == MlpLoss::mse) return static_cast<double>(B * C);
  using A = acc_t<T>;
  const auto* target = static_cast<const int64_t*>(args.targets);
  const T* w = static_cast<const T*>(args.class_weight);
  double norm = 0;
  for (int64_t b = 0; b < B; ++b) {
    const int64_t t = target[order[b]];
    if (t != args.ignore_index) norm += w ? static_cast<double>(static_cast<A>(w[t])) : 1.0;
  }
  return norm;
}

// x[c] <- dC/dx[c] for one sample's outputs x[0..C) and target t; its part of the loss. p: room for
// C.
template <class T>
double cross_entropy_sample(const MlpArgs& args, int64_t t, double norm, int64_t C, acc_t<T>* x,
                            acc_t<T>* p) {
  using A = acc_t<T>;
  if (t == args.ignore_index) {
    std::fill(x, x + C, A(0));
    return 0;
  }
  const T* w = static_cast<const T*>(args.class_weight);
  const A smoothing = static_cast<A>(args.label_smoothing);
  A m = x[0];
  for (int64_t c = 1; c < C; ++c) m = x[c] > m || x[c] != x[c] ? x[c] : m;
  for_each_lanes<A>(0, C, [&](auto lanes) { lanes.store(p, exp(lanes.load(x) - m)); });
  double ties = 0, rest = 0;
  for (int64_t c = 0; c < C; ++c) (x[c] == m ? ties : rest) += static_cast<double>(p[c]);
  const A l = static_cast<A>(log_sum_exp(static_cast<double>(m), ties, rest));
  const auto q = [&](int64_t c) {
    // Without smoothing no other class's weight counts, though it be infinite.
    if (smoothing == A(0) && c != t) return A(0);
    return smoothed_target(A(c == t), w ? static_cast<A>(w[c]) : A(1), smoothing,
                           static_cast<A>(C));
  };
  double loss = 0;
  A a = 0;
  for (int64_t c = 0; c < C; ++c) {
    const A qc = q(c);
    a += qc;
    if (qc != A(0)) loss -= static_cast<double>(qc * log_probability(x[c], m, l));
  }
  for_each_lanes<A>(0, C,
                    [&](auto lanes) { lanes.store(p, exp(log_probability(lanes.load(x), m, l))); });
  const A g = static_cast<A>(1 / norm);
  for (int64_t c = 0; c < C; ++c) x[c] = g * (a * p[c] - q(c));
  return loss;
}

template <class T>
double mse_sample(const T* t, double norm, int64_t C, acc_t<T>* x) {
  using A = acc_t<T>;
  const A g = static_cast<A>(1 / norm);
  double loss = 0;
  for (int64_t c = 0; c < C; ++c) {
    const A target = static_cast<A>(t[c]);
    loss += static_cast<double>(squared_error(x[c], target, A(1)));
    x[c] = squared_error_dx(x[c], target, A(1), g);
  }
  return loss;
}
