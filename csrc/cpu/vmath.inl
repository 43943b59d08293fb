// exp, expm1, log1p, tanh and erf of each lane of V, in float32 and float64. The polynomials are
// minimax fits, made and checked by scripts/fit_polynomials.py. Nothing below needs a fused
// multiply-add, which only lowers the errors a little. NaN stays NaN.

template <class E>
struct MathConstants;

template <>
struct MathConstants<float> {
  static constexpr int mantissa_bits = 23;
  static constexpr uint32_t exponent_bias = 127;
  static constexpr float rounder = 0x1.8p23f;  // x + rounder - rounder is x rounded to an integer
  static constexpr float log2e = 1.44269504f;
  // ln 2 = high + low; high times any exponent is exact.
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
  static constexpr float exp_zero = -104, exp_infinity = 89;  // exp is 0 below, infinity above
  static constexpr float expm1_end = -18;                     // expm1 is -1 below
  static constexpr float tanh_end = 10, erf_end = 4;          // 1 above
  static constexpr float sqrt_half = 0.707106781f;
  // exp(r) = 1 + r + r^2 q(r), |r| <= ln(2) / 2: error 2^-28
  static constexpr float exp[] = {0.5f,         0.16666636f,   0.04166651f,
                                  0.008341511f, 0.0013930543f, 0.00015043857f};
  // 2 atanh(s) = 2 s + s z p(z), z = s^2 <= (sqrt(2) - 1)^4: error 2^-30
  static constexpr float log[] = {0.66666776f, 0.3997758f, 0.29870927f};
  // erf(x) = -expm1(-(x + x h(x))), 0 <= x <= 4: error 2^-28
  static constexpr float erf[] = {0.12837917f,     0.63661957f,     0.102776304f,
                                  -0.019147824f,   -0.00016949452f, 0.0016756587f,
                                  -0.00063734874f, 0.000118855605f, -9.387118e-06f};
};

template <>
struct MathConstants<double> {
  static constexpr int mantissa_bits = 52;
  static constexpr uint64_t exponent_bias = 1023;
  static constexpr double rounder = 0x1.8p52;
  static constexpr double log2e = 1.44269504088896340736;
  static constexpr double ln2_high = 0x1.62e42fefa4p-1, ln2_low = -0x1.8432a1b0e2634p-43;
  static constexpr double exp_zero = -746, exp_infinity = 710;
  static constexpr double expm1_end = -38;
  static constexpr double tanh_end = 20, erf_end = 6;
  static constexpr double sqrt_half = 0.70710678118654752440;
  // error 2^-60
  static constexpr double exp[] = {0.5,
                                   0.16666666666666677,
                                   0.04166666666666669,
                                   0.008333333333321742,
                                   0.0013888888888883132,
                                   0.00019841269885369694,
                                   2.480158726776421e-05,
                                   2.7557245301977784e-06,
                                   2.755739356557463e-07,
                                   2.5108579751857994e-08,
                                   2.085323193035628e-09};
  // error 2^-59
  static constexpr double log[] = {0.6666666666666734, 0.3999999999941654, 0.28571428742066435,
                                   0.2222219859981842, 0.1818356318126626, 0.15314075090576196,
                                   0.1479574279166023};
  // 0 <= x <= 6: error 2^-55
  static constexpr double erf[] = {
      0.12837916709551256,     0.6366197723675898,     0.10277260330135769,
      -0.019128446993822237,   -0.0002091948467358162, 0.0016962076243858051,
      -0.0005901322327521286,  2.5903884398138598e-05, 6.442189568721075e-05,
      -2.9578171258642793e-05, 3.173078213566774e-06,  3.129329540817927e-06,
      -2.0341241877509242e-06, 5.685758953570397e-07,  -1.0607177769430138e-08,
      -6.62034407791531e-08,   3.4744019778697326e-08, -1.081577251344499e-08,
      2.369283323472083e-09,   -3.774452089872263e-10, 4.3175332084050384e-11,
      -3.37677715129291e-12,   1.6208971218559163e-13, -3.6057075220843074e-15};
};

template <class V>
using math_of = MathConstants<element_t<V>>;

// c[0] + c[1] x + ...
template <class V, size_t N>
inline V polynomial(V x, const element_t<V> (&c)[N]) {
  V sum = splat<V>(c[N - 1]);
#pragma GCC unroll 32
  for (int i = static_cast<int>(N) - 2; i >= 0; --i) sum = sum * x + c[i];
  return sum;
}

// 2^n from n + bias
template <class V>
inline V power_of_two(bits_t<V> biased) {
  return reinterpret<V>(biased << math_of<V>::mantissa_bits);
}

// x = n ln 2 + r, |r| <= ln(2) / 2 and a little; r = high - low, where `high` is exact. `tail` is
// exp(r) - 1 - high, all but its first term.
template <class V>
struct ReducedExp {
  V high, r, tail;
  bits_t<V> n;  // modulo 2^32 or 2^64

  explicit ReducedExp(V x) {
    using M = math_of<V>;
    const V shifted = x * M::log2e + M::rounder;
    n = bits_of(shifted) - reinterpret<integer_t<V>>(M::rounder);
    const V whole = shifted - M::rounder;
    high = x - whole * M::ln2_high;
    const V low = whole * M::ln2_low;
    r = high - low;
    tail = polynomial(r, M::exp) * (r * r) - low;
  }
};

template <class V>
inline V exp(V x) {
  using M = math_of<V>;
  const ReducedExp<V> e(at_least(at_most(x, M::exp_infinity), M::exp_zero));
  const V mantissa = element_t<V>(1) + (e.high + e.tail);
  // In two steps, since 2^n alone may be too large or too small for a number that is not.
  const bits_t<V> twice = e.n + 2 * M::exponent_bias, half = twice >> 1;
  return mantissa * power_of_two<V>(half) * power_of_two<V>(twice - half);
}

// exp(x) - 1 where exp(x) is below half of the largest number.
template <class V>
inline V expm1(V x) {
  using M = math_of<V>;
  const ReducedExp<V> e(at_least(x, M::expm1_end));
  const V scale = power_of_two<V>(e.n + M::exponent_bias);
  const V y = scale * e.tail + (scale * e.high + (scale - element_t<V>(1)));
  return select(x == element_t<V>(0), x, y);  // -0
}

// log(1 + x) for 0 <= x < 2^100
template <class V>
inline V log1p(V x) {
  using E = element_t<V>;
  using M = math_of<V>;
  // 1 + x = 2^k (1 + f), sqrt(1/2) <= 1 + f < sqrt(2). The digits that 1 + x lost are still in f.
  const bits_t<V> k =
      (bits_of(E(1) + x) - reinterpret<integer_t<V>>(M::sqrt_half)) >> M::mantissa_bits;
  const V scale = power_of_two<V>(M::exponent_bias - k);
  const V f = x * scale + (scale - E(1));
  // log(1 + f) = 2 atanh(s), s = f / (2 + f), and 2 s = f - s f.
  const V s = f / (f + E(2)), z = s * s;
  const V rest = s * (f - z * polynomial(z, M::log));
  const V exponent = reinterpret<V>(k + reinterpret<integer_t<V>>(M::rounder)) - M::rounder;
  return exponent * M::ln2_high + (f - (rest - exponent * M::ln2_low));
}

template <class V>
inline V tanh(V x) {
  using E = element_t<V>;
  const V y = at_most(abs(x), math_of<V>::tanh_end);
  // e / (e + 2), and then once more what is left of e, which mends the rounding of e + 2 as well.
  const V e = expm1(y + y), reciprocal = reciprocal_estimate(e + E(2));
  V quotient = e * reciprocal;
  quotient += ((e - E(2) * quotient) - e * quotient) * reciprocal;
  return copysign(at_most(quotient, E(1)), x);
}

template <class V>
inline V erf(V x) {
  using M = math_of<V>;
  const V y = at_most(abs(x), M::erf_end);
  return copysign(expm1(-(y * polynomial(y, M::erf) + y)), x);
}
