// contract/mlp.h on the CPU.
//
// `parts` threads stay together from the first step to the last and meet at barriers. A layer is
// wide if every part can have panels of its own units: then a part computes those units for all
// samples, keeps their weights in its cache from forward to update, and contributes a term to dx
// that the parts add up. A narrow layer (the last one, as a rule) is cut by samples on the way
// forward and by inputs on the way back.

template <class T>
class MlpRun {
 public:
  using A = acc_t<T>;
  using Vector = typename Vec<A>::type;
  static constexpr int P = Panel<A>::width;

  MlpRun(const MlpArgs& args, MlpState<T>& state)
      : args_(args),
        state_(state),
        steps_((args.samples + args.B - 1) / args.B),
        deadline_(std::chrono::steady_clock::now() +
                  std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                      std::chrono::duration<double>(std::min(args.seconds, 1e9)))) {}

  int64_t run() {
    run_team(state_.parts, [this](Member& member) { run_part(member); });
    return std::min(steps_, stop_at_.load(std::memory_order_relaxed));
  }

 private:
  using Layer = typename MlpState<T>::Layer;
  using Part = typename MlpState<T>::Part;

  void run_part(Member& member) {
    Part& part = state_.part[member.index];
    state_.pack(member);
    member.barrier();
    for (int64_t n = 0; n < std::min(steps_, stop_at_.load(std::memory_order_relaxed)); ++n)
      step(member, part, n);
    member.barrier();
    state_.unpack(member);
  }

  void step(Member& member, Part& part, int64_t n) {
    const int64_t B = std::min(args_.B, args_.samples - n * args_.B);
    const int64_t* order = part.order;
    if (args_.order)
      order = args_.order + n * args_.B;
    else
      for (int64_t b = 0; b < B; ++b) part.order[b] = n * args_.B + b;
    const Range samples = share(B, member.index, member.size);
    // The layouts depend on B: a short last batch writes where others may still read.
    if (B != args_.B) member.barrier();

    part.inputs[0] = gather(member, part, order, B, n);
    for (int64_t l = 0; l < args_.L; ++l) {
      const Layer& layer = state_.layers[l];
      if (l > 0) {
        member.barrier();
        part.inputs[l] = input_of(part, l, B);
      } else if (!layer.wide && B <= kSmallBatch) {
        member.barrier();  // others updated some of these weights
      }
      forward(layer, part.inputs[l], layer.wide ? Range{0, B} : samples,
              layer.wide ? layer.own(member) : Range{0, layer.panels});
    }
    if (state_.layers[args_.L - 1].wide) member.barrier();
    const double norm = loss_norm<T>(args_, order, B, state_.layers[args_.L - 1].O);
    part.loss = loss(part, order, samples, B, norm);
    member.barrier();
    if (member.index == 0) {
      double sum = 0;
      for (int p = 0; p < member.size; ++p) sum += state_.part[p].loss;
      args_.losses[n] = sum / norm;
      // The others see this at a barrier of the next step at the latest.
      if (std::chrono::steady_clock::now() > deadline_ && stop_at_ == INT64_MAX) stop_at_ = n + 2;
    }
    for (int64_t l = args_.L - 1; l >= 0; --l) backward(member, part, l, B, n);
  }

  // Small batches are gathered by every part for itself, others together.
  Input<A> gather(Member& member, Part& part, const int64_t* order, int64_t B, int64_t n) {
    const int64_t I = state_.layers[0].I;
    const bool alone = B <= kSmallBatch;
    const Range samples = alone ? Range{0, B} : share(B, member.index, member.size);
    A* x = alone ? part.live[0].x : state_.x[n % 2];
    int32_t* rows = part.live[0].rows;
    Input<A> in{x, rows, B, 0};
    with_samples<T>(args_, [&](const auto& source) {
      mark_columns(source, order, samples, I, part.seen);
      if (!alone) {
        member.barrier();
        uint8_t* all = state_.part[member.index].seen_by_all;
        std::memcpy(all, state_.part[0].seen, I);
        for (int p = 1; p < member.size; ++p)
          for (int64_t i = 0; i < I; ++i) all[i] |= state_.part[p].seen[i];
        in.K = list_columns(all, I, rows);
      } else {
        in.K = list_columns(part.seen, I, rows);
      }
      if (in.K > I - I / 8) in.rows = nullptr, in.K = I;
      gather_samples(source, order, samples, in, x);
    });
    if (!alone) member.barrier();
    return in;
  }

  Input<A> input_of(Part& part, int64_t l, int64_t B) {
    const Layer& lower = state_.layers[l - 1];
    if (B <= kSmallBatch && lower.activation == Activation::relu)
      return live_units(lower.h, B, lower.O, part.seen, part.live[l].rows, part.live[l].x);
    return {lower.h, nullptr, B, lower.O};
  }

  void forward(const Layer& layer, const Input<A>& in, Range samples, Range panels) {
    A* const sums = layer.s;  // z where the backward pass wants it, else what becomes y
    forward_product(in, layer.w, layer.I, samples, panels, sums,
                    [&](int64_t p, int64_t b, int64_t count, A* z) {
                      const A* bias = layer.b + p * P;
                      for (int64_t r = 0; r < count; ++r)
                        for (int j = 0; j < P; ++j) z[r * P + j] += bias[j];
                      A* y = layer.h + (p * in.B + b) * P;
                      if (y != z) {
                        std::memcpy(y, z, count * P * sizeof(A));
                        round_row<T>(z, count * P);
                      }
                      layer.activate(y, count * P);
                      round_row<T>(y, count * P);
                    });
  }

  // h of the last layer becomes its dz.
  double loss(Part& part, const int64_t* order, Range samples, int64_t B, double norm) {
    const Layer& layer = state_.layers[args_.L - 1];
    const int64_t C = layer.O;
    double sum = 0;
    for (int64_t b = samples.begin; b < samples.end; ++b) {
      A* row = part.row;  // [panels * P]
      for (int64_t p = 0; p < layer.panels; ++p)
        std::memcpy(row + p * P, layer.h + (p * B + b) * P, P * sizeof(A));
      if (args_.loss == MlpLoss::mse)
        sum += mse_sample<T>(static_cast<const T*>(args_.targets) + order[b] * C, norm, C, row);
      else
        sum += cross_entropy_sample<T>(args_, static_cast<const int64_t*>(args_.targets)[order[b]],
                                       norm, C, row, part.probabilities);
      std::fill(row + C, row + layer.panels * P, A(0));
      round_row<T>(row, C);
      for (int64_t p = 0; p < layer.panels; ++p) {
        A* s = layer.s + (p * B + b) * P;
        layer.activation_backward(row + p * P, s, s, P);
      }
    }
    return sum;
  }

  // From dz of layer l, in the place of its s: the update of its weights, and dz of the layer
  // below.
  void backward(Member& member, Part& part, int64_t l, int64_t B, int64_t n) {
    const Layer& layer = state_.layers[l];
    const Input<A>& in = part.inputs[l];
    // A narrow layer needs all of its dz; a wide one writes over the terms of dx that the layer
    // above, if wide, left for everyone.
    if (l + 1 < args_.L && (!layer.wide || (l > 0 && state_.layers[l + 1].wide))) member.barrier();
    const Range panels = layer.wide ? layer.own(member) : Range{0, layer.panels};
    const Range rows = layer.wide ? Range{0, layer.I}
                       : l > 0    ? state_.layers[l - 1].own_units(member)
                                  : share(layer.I, member.index, member.size);
    const Range columns = in.columns(rows);

    const MlpLayer& options = args_.layers[l];
    const SgdRule<A> rule = rule_of(options.w, n);
    const auto update = [&](int64_t p, int64_t row, Vector(&dw)[kMicroVectors]) {
      const int64_t at = (p * layer.I + row) * P;
      update_row(rule, options.w.first && n == 0, dw, layer.w + at,
                 layer.mw ? layer.mw + at : nullptr);
    };
    A* dx = state_.dx + member.index * state_.dx_stride;
    const bool small = B <= kSmallBatch;
    if (l > 0 && small && !layer.mw) {
      small_backward<A, true>(in, layer.w, layer.I, layer.s, columns, panels, dx, update);
    } else {
      if (l > 0 && small) {
        small_backward<A, false>(in, layer.w, layer.I, layer.s, columns, panels, dx, update);
      } else if (l > 0) {
        transpose_gradient(layer.s, B, panels, part.dzt);
        input_gradient(layer.w, part.dzt, B, layer.I, layer.O, columns, panels, dx);
      }
      weight_gradient(in, layer.s, columns, panels, update);
    }
    if (in.rows && (rule.has_momentum || rule.weight_decay != A(0)))
      in.for_each_other_row(rows, [&](int64_t row) {
        for (int64_t p = panels.begin; p < panels.end; ++p) {
          Vector none[kMicroVectors] = {};
          update(p, row, none);
        }
      });
    if (options.b.data && (layer.wide || member.index == 0))
      update_bias(layer, options.b, panels, B, n);
    if (l > 0) {
      if (layer.wide) member.barrier();
      finish_input_gradient(
          member, part, l, B,
          layer.wide ? Range{0, member.size} : Range{member.index, member.index + 1});
    }
  }

  SgdRule<A> rule_of(const MlpParameter& parameter, int64_t n) const {
    const MlpGroup& group = args_.groups[parameter.group];
    return {args_.lr[n * args_.group_count + parameter.group],
            group.momentum,
            group.dampening,
            group.weight_decay,
            group.nesterov,
            group.maximize};
  }

  // One row of a panel, for its gradient g.
  GDEXT_INLINE static void update_row(const SgdRule<A>& rule, bool first,
                                      Vector (&g)[kMicroVectors], A* w, A* m) {
    for (int v = 0; v < kMicroVectors; ++v) {
      const int at = v * Vec<A>::width;
      Vector wv = Vec<A>::load(w + at), mv = m ? Vec<A>::load(m + at) : Vector{};
      rule(wv, rounded(g[v]), mv, first);
      Vec<A>::store(w + at, rounded(wv));
      if (m) Vec<A>::store(m + at, rounded(mv));
    }
  }
  GDEXT_INLINE static Vector rounded(Vector v) {
    if constexpr (!std::is_same_v<T, A>) {
      A values[Vec<A>::width];
      Vec<A>::store(values, v);
      round_row<T>(values, Vec<A>::width);
      v = Vec<A>::load(values);
    }
    return v;
  }

  // db = sum_b dz[b,:]
  void update_bias(const Layer& layer, const MlpParameter& options, Range panels, int64_t B,
                   int64_t n) {
    const SgdRule<A> rule = rule_of(options, n);
    for (int64_t p = panels.begin; p < panels.end; ++p) {
      Vector db[kMicroVectors] = {};
      for (int64_t block = 0; block < B; block += kDepth) {
        Vector sum[kMicroVectors] = {};
        for (int64_t b = block; b < std::min(B, block + kDepth); ++b)
          for (int v = 0; v < kMicroVectors; ++v)
            sum[v] += Vec<A>::load(layer.s + (p * B + b) * P + v * Vec<A>::width);
        for (int v = 0; v < kMicroVectors; ++v) db[v] += sum[v];
      }
      update_row(rule, options.first && n == 0, db, layer.b + p * P,
                 layer.mb ? layer.mb + p * P : nullptr);
    }
  }

  // Adds up the terms of dx of layer l for this part's units of the layer below, and makes its dz.
  void finish_input_gradient(Member& member, Part& part, int64_t l, int64_t B, Range terms) {
    const Layer& lower = state_.layers[l - 1];
    const Range panels = lower.own(member);
    if (B <= kSmallBatch) {
      sum_small_terms(part.inputs[l], panels, lower.own_units(member), B, terms, part.dy);
      round_row<T>(part.dy, panels.size() * B * P);
      A* s = lower.s + panels.begin * B * P;
      lower.activation_backward(part.dy, s, s, panels.size() * B * P);
      return;
    }
    for (int64_t p = panels.begin; p < panels.end; ++p) {
      const int64_t units = std::min<int64_t>(P, lower.O - p * P);
      for (int64_t b = 0; b < B; b += P) {
        alignas(64) A sums[P * P], dy[P * P];
        const A* term = state_.dx + terms.begin * state_.dx_stride + (b / P * lower.O + p * P) * P;
        std::memcpy(sums, term, units * P * sizeof(A));
        std::fill(sums + units * P, sums + P * P, A(0));
        for (int64_t t = terms.begin + 1; t < terms.end; ++t) {
          term += state_.dx_stride;
          for (int64_t i = 0; i < units * P; ++i) sums[i] += term[i];
        }
        transpose(P, sums, P, dy, P);
        const int64_t count = std::min<int64_t>(P, B - b) * P;
        round_row<T>(dy, count);
        A* s = lower.s + (p * B + b) * P;
        lower.activation_backward(dy, s, s, count);
      }
    }
  }

  // dy[p - first][b][:] from the terms that small_backward left, zero for the units it left out.
  void sum_small_terms(const Input<A>& in, Range panels, Range units, int64_t B, Range terms,
                       A* dy) const {
    std::fill(dy, dy + panels.size() * B * P, A(0));
    const Range columns = in.columns(units);
    for (int64_t k = columns.begin; k < columns.end; ++k) {
      const int64_t unit = in.row(k) - panels.begin * P;
      for (int64_t b = 0; b < B; ++b) {
        A& sum = dy[(unit / P * B + b) * P + unit % P];
        for (int64_t t = terms.begin; t < terms.end; ++t)
          sum += state_.dx[t * state_.dx_stride + (k / P * B + b) * P + k % P];
      }
    }
  }

  const MlpArgs& args_;
  MlpState<T>& state_;
  const int64_t steps_;
  const std::chrono::steady_clock::time_point deadline_;
  std::atomic<int64_t> stop_at_{INT64_MAX};
};

inline MlpSizes mlp_sizes(const MlpArgs& args) {
  MlpSizes sizes{};
  for_dtype(args.dtype, [&](auto element) {
    sizes = MlpState<decltype(element)>(args, nullptr, nullptr).sizes;
  });
  return sizes;
}

inline int64_t mlp(const MlpArgs& args) {
  int64_t done = 0;
  for_dtype(args.dtype, [&](auto element) {
    MlpState<decltype(element)> state(args, args.packed, args.scratch);
    done = MlpRun<decltype(element)>(args, state).run();
  });
  return done;
}
