// The update of the whole-network step: contract/sgd.h for a row of a panel of weights or biases,
// in registers, as the epilogue of the product that makes its gradient. Or, where the gradient
// itself is wanted, its way to memory.

// v rounded to T and back.
template <class T>
GDEXT_INLINE typename Vec<acc_t<T>>::type rounded(typename Vec<acc_t<T>>::type v) {
  using A = acc_t<T>;
  if constexpr (!std::is_same_v<T, A>) {
    T narrow[Vec<A>::width];
    Vec<A>::narrow(narrow, v);
    v = Vec<A>::widen(narrow);
  }
  return v;
}

// kPlain: no momentum and no weight decay, decided before the loops.
template <class T, bool kPlain>
class RowUpdate {
 public:
  using A = acc_t<T>;
  using V = Vec<A>;
  using Vector = typename V::type;

  // m null: no momentum. first: m holds nothing yet.
  RowUpdate(const SgdRule<A>& rule, bool first, A* w, A* m)
      : rule_(rule), first_(first), w_(w), m_(m) {
    // -(lr g) and (-lr) g are the same number.
    if (kPlain && rule.maximize) rule_.lr = -rule_.lr;
  }

  // For the gradient of the row of a panel that begins at `at`.
  GDEXT_INLINE void operator()(int64_t at, const Vector (&gradient)[kMicroVectors]) const {
    SgdRule<A> rule = rule_;
    if constexpr (kPlain) {
      rule.maximize = rule.has_momentum = false;
      rule.weight_decay = A(0);
    }
#pragma GCC unroll 4
    for (int v = 0; v < kMicroVectors; ++v) {
      A* const w = w_ + at + v * V::width;
      A* const m = kPlain || !m_ ? nullptr : m_ + at + v * V::width;
      Vector wv = V::load(w), mv = m ? V::load(m) : Vector{};
      rule(wv, rounded<T>(gradient[v]), mv, first_);
      V::store(w, rounded<T>(wv));
      if (m) V::store(m, rounded<T>(mv));
    }
  }

  // Calls for the row's cache lines, to be written.
  GDEXT_INLINE void prefetch(int64_t at) const {
    const A* const w = w_ + at;
#pragma GCC unroll 4
    for (int i = 0; i < Panel<A>::width; i += 64 / sizeof(A)) __builtin_prefetch(w + i, 1);
  }

  // Whether a row whose gradient is zero changes all the same.
  bool moves_without_gradient() const {
    return !kPlain && (rule_.has_momentum || rule_.weight_decay != A(0));
  }

 private:
  SgdRule<A> rule_;
  bool first_;
  A *w_, *m_;
};

// In place of an update: stores the gradient, laid out as the weights are.
template <class A>
class RowGradient {
 public:
  using V = Vec<A>;

  explicit RowGradient(A* dw) : dw_(dw) {}

  GDEXT_INLINE void operator()(int64_t at,
                               const typename V::type (&gradient)[kMicroVectors]) const {
#pragma GCC unroll 4
    for (int v = 0; v < kMicroVectors; ++v) V::store(dw_ + at + v * V::width, gradient[v]);
  }
  GDEXT_INLINE void prefetch(int64_t) const {}          // nothing is read
  bool moves_without_gradient() const { return true; }  // zeros too are to be stored

 private:
  A* dw_;
};

// Calls f(RowUpdate), or where there is a dw f(RowGradient).
template <class T, class F>
GDEXT_INLINE void with_update(const SgdRule<acc_t<T>>& rule, bool first, acc_t<T>* w, acc_t<T>* m,
                              acc_t<T>* dw, const F& f) {
  if (dw)
    f(RowGradient<acc_t<T>>(dw));
  else if (!m && !rule.has_momentum && rule.weight_decay == 0)
    f(RowUpdate<T, true>(rule, first, w, m));
  else
    f(RowUpdate<T, false>(rule, first, w, m));
}
