// contract/mlp.h on the CPU.
//
// `parts` threads stay together from the first step to the last and meet at barriers. A layer is
// wide if every part can have panels of its own units: then a part computes those units for all
// samples, keeps their weights in its cache from forward to update, and contributes a term to dx
// that the parts add up. A narrow layer is cut by samples on the way forward and by inputs on the
// way back; but if it is the last one, above a wide one, as it is as a rule, then it is `split`:
// cut by inputs both ways, so that a part meets its own units of the layer below alone. The terms
// of z are added up on the way into the loss, which small batches' parts compute each for
// themselves, rather than wait for one another.

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
  using Weights = typename MlpState<T>::Weights;

  void run_part(Member& member) {
    Part& part = state_.part[member.index];
    state_.pack(member.index);
    member.barrier();
    for (int64_t n = 0; n < std::min(steps_, stop_at_.load(std::memory_order_relaxed)); ++n)
      step(member, part, n);
    member.barrier();
    state_.unpack(member.index);
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
        if (!layer.split) member.barrier();
        part.inputs[l] = input_of(part, l, B);
      } else if (!layer.wide && state_.gathers_alone) {
        member.barrier();  // others updated some of these weights
      }
      forward(member, part, l, layer.wide || layer.split ? Range{0, B} : samples, n);
    }
    member.barrier();
    const double norm =
        args_.norms ? args_.norms[n] : loss_norm<T>(args_, order, B, state_.layers[args_.L - 1].O);
    const bool alone = B <= kSmallBatch;
    part.loss = loss(part, order, alone ? Range{0, B} : samples, B, norm, n);
    if (!alone) member.barrier();
    if (member.index == 0) {
      double sum = part.loss;
      for (int p = 1; p < member.size && !alone; ++p) sum += state_.part[p].loss;
      args_.losses[n] = sum / norm;
      // The others see this at a barrier of the next step at the latest.
      if (std::chrono::steady_clock::now() > deadline_ && stop_at_ == INT64_MAX) stop_at_ = n + 2;
    }
    for (int64_t l = args_.L - 1; l >= 0; --l) backward(member, part, l, B, n);
  }

  Input<A> gather(Member& member, Part& part, const int64_t* order, int64_t B, int64_t n) {
    const int64_t I = state_.layers[0].I;
    const bool alone = state_.gathers_alone;
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

  // Of a split layer, the inputs that this part meets, counted from the first of them.
  Input<A> input_of(Part& part, int64_t l, int64_t B) {
    const Layer& lower = state_.layers[l - 1];
    const Range units = part.weights[l].inputs;
    const A* h = lower.h + units.begin * B;
    if (B <= kSmallBatch && lower.activation == Activation::relu)
      return live_units(h, B, units.size(), part.seen, part.live[l].rows, part.live[l].x);
    return {h, nullptr, B, units.size()};
  }

  void forward(const Member& member, const Part& part, int64_t l, Range samples, int64_t n) {
    const Layer& layer = state_.layers[l];
    const Weights& weights = part.weights[l];
    const Input<A>& in = part.inputs[l];
    const bool last = l == args_.L - 1;
    // z where the backward pass wants it, else what becomes y
    A* const sums = last ? state_.term(layer.split ? member.index : 0, n) : layer.s;
    const bool biased = !layer.split || member.index == 0;
    forward_product(in, weights.layout, weights.w, samples, weights.panels(), sums,
                    [&](int64_t p, int64_t b, int64_t count, A* z) {
                      if (biased) add_bias(layer.b + p * P, count, z);
                      if (last) return;
                      A* y = layer.h + (p * in.B + b) * P;
                      if (y != z) {
                        std::memcpy(y, z, count * P * sizeof(A));
                        round_row<T>(z, count * P);
                      }
                      layer.activate(y, count * P);
                      round_row<T>(y, count * P);
                    });
  }
  static void add_bias(const A* b, int64_t rows, A* z) {
    for (int64_t r = 0; r < rows; ++r)
      for (int j = 0; j < P; ++j) z[r * P + j] += b[j];
  }

  // From the last layer's z, its dz.
  double loss(Part& part, const int64_t* order, Range samples, int64_t B, double norm, int64_t n) {
    const Layer& layer = state_.layers[args_.L - 1];
    const int64_t C = layer.O, width = layer.panels * P;
    A *row = part.row, *s = part.saved;  // [panels * P]
    A* const dz = state_.last_dz(part, B);
    double sum = 0;
    for (int64_t b = samples.begin; b < samples.end; ++b) {
      for (int64_t p = 0; p < layer.panels; ++p) sum_terms((p * B + b) * P, n, row + p * P);
      if (saves_z(layer.activation)) {
        std::memcpy(s, row, width * sizeof(A));
        round_row<T>(s, width);
      }
      layer.activate(row, width);
      round_row<T>(row, width);
      if (!saves_z(layer.activation)) std::memcpy(s, row, width * sizeof(A));
      if (args_.loss == MlpLoss::mse)
        sum += mse_sample<T>(static_cast<const T*>(args_.targets) + order[b] * C, norm, C, row);
      else
        sum += cross_entropy_sample<T>(args_, static_cast<const int64_t*>(args_.targets)[order[b]],
                                       norm, C, row, part.probabilities);
      std::fill(row + C, row + width, A(0));
      round_row<T>(row, C);
      for (int64_t p = 0; p < layer.panels; ++p)
        layer.activation_backward(row + p * P, s + p * P, dz + (p * B + b) * P, P);
    }
    return sum;
  }
  // z[0..P) = the terms at `at`, added up in the order of the parts.
  void sum_terms(int64_t at, int64_t n, A* z) const {
    std::memcpy(z, state_.term(0, n) + at, P * sizeof(A));
    for (int t = 1; t < state_.terms; ++t) {
      const A* term = state_.term(t, n) + at;
      for (int j = 0; j < P; ++j) z[j] += term[j];
    }
  }

  // From dz of layer l, in the place of its s: the update of its weights, and dz of the layer
  // below.
  void backward(Member& member, Part& part, int64_t l, int64_t B, int64_t n) {
    const Layer& layer = state_.layers[l];
    const Input<A>& in = part.inputs[l];
    // A narrow layer needs all of its dz; a wide one writes over the terms of dx that the layer
    // above, if wide, left for everyone.
    if (l + 1 < args_.L && (!layer.wide || (l > 0 && state_.layers[l + 1].wide))) member.barrier();
    const Weights& weights = part.weights[l];
    const WeightLayout<A>& layout = weights.layout;
    const Range panels = weights.panels();
    // The rows of weights that are this part's to update.
    const Range rows = layer.wide || layer.split ? Range{0, weights.inputs.size()}
                       : l > 0                   ? state_.layers[l - 1].own_units(member.index)
                                                 : share(layer.I, member.index, member.size);
    const Range columns = in.columns(rows);
    const A* dz = l == args_.L - 1 ? state_.last_dz(part, B) : layer.s;

    const MlpLayer& options = args_.layers[l];
    const SgdRule<A> rule = rule_of(options.w, n);
    A* const w = weights.w;
    A* const dx = state_.dx_of(member.index);
    const bool small = B <= kSmallBatch;
    with_update<T>(
        rule, options.w.first && n == 0, w, weights.m, weights.dw, [&](const auto& update) {
          const auto small_of = [&](auto with_dx, auto with_update) {
            small_backward<A, with_dx.value, with_update.value>(in, layout, w, dz, columns, panels,
                                                                dx, update);
          };
          constexpr std::true_type with;
          constexpr std::false_type without;
          if (small && l > 0 && !weights.m) {
            small_of(with, with);
          } else if (small) {
            if (l > 0) small_of(with, without);
            small_of(without, with);
          } else {
            if (l > 0) {
              transpose_gradient(dz, B, panels, part.dzt);
              input_gradient(layout, w, part.dzt, B, layer.I, layer.O, columns, panels, dx);
            }
            weight_gradient(in, layout, dz, columns, panels, part.dw_sums, update);
          }
          if (in.rows && update.moves_without_gradient())
            in.for_each_other_row(rows, [&](int64_t row) {
              for (int64_t p = panels.begin; p < panels.end; ++p) {
                Vector none[kMicroVectors] = {};
                update(layout.at(p, row), none);
              }
            });
        });
    if (options.b.data && (layer.wide || member.index == 0))
      update_bias(layer, options.b, dz, panels, B, n);
    if (l > 0) {
      if (layer.wide) member.barrier();
      finish_input_gradient(
          member, part, l, B,
          layer.wide ? Range{0, member.size} : Range{member.index, member.index + 1});
    }
  }

  SgdRule<A> rule_of(const MlpParameter& parameter, int64_t n) const {
    const MlpGroup& group = args_.groups[parameter.group];
    if (parameter.gradient) return {0, 0, 0, 0, false, false};
    return {args_.lr[n * args_.group_count + parameter.group],
            group.momentum,
            group.dampening,
            group.weight_decay,
            group.nesterov,
            group.maximize};
  }

  // db = sum_b dz[b,:]
  void update_bias(const Layer& layer, const MlpParameter& options, const A* dz, Range panels,
                   int64_t B, int64_t n) {
    with_update<T>(rule_of(options, n), options.first && n == 0, layer.b, layer.mb, layer.db,
                   [&](const auto& update) {
                     for (int64_t p = panels.begin; p < panels.end; ++p) {
                       Vector db[kMicroVectors] = {};
                       for (int64_t block = 0; block < B; block += kDepth) {
                         Vector sum[kMicroVectors] = {};
                         for (int64_t b = block; b < std::min(B, block + kDepth); ++b)
                           for (int v = 0; v < kMicroVectors; ++v)
                             sum[v] += Vec<A>::load(dz + (p * B + b) * P + v * Vec<A>::width);
                         for (int v = 0; v < kMicroVectors; ++v) db[v] += sum[v];
                       }
                       update(p * P, db);
                     }
                   });
  }

  // Adds up the terms of dx of layer l for this part's units of the layer below, and makes its dz.
  void finish_input_gradient(Member& member, Part& part, int64_t l, int64_t B, Range terms) {
    const Layer& lower = state_.layers[l - 1];
    const Range panels = lower.own(member.index);
    // Where dx begins, as a panel: a split layer has but this part's units.
    const int64_t begin = state_.layers[l].split ? panels.begin : 0;
    if (B <= kSmallBatch) {
      Range units = lower.own_units(member.index);
      units = {units.begin - begin * P, units.end - begin * P};
      sum_small_terms(part.inputs[l], units, B, terms, part.dy);
      round_row<T>(part.dy, panels.size() * B * P);
      A* s = lower.s + panels.begin * B * P;
      lower.activation_backward(part.dy, s, s, panels.size() * B * P);
      return;
    }
    for (int64_t p = panels.begin; p < panels.end; ++p) {
      const int64_t units = std::min<int64_t>(P, lower.O - p * P);
      for (int64_t b = 0; b < B; b += P) {
        alignas(64) A sums[P * P], dy[P * P];
        const int64_t at = (b / P * lower.O + (p - begin) * P) * P;
        std::memcpy(sums, state_.dx_of(terms.begin) + at, units * P * sizeof(A));
        std::fill(sums + units * P, sums + P * P, A(0));
        for (int64_t t = terms.begin + 1; t < terms.end; ++t) {
          const A* term = state_.dx_of(t) + at;
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

  // dy[unit / P][b][unit % P] from the terms that small_backward left for `units`, the first of
  // which has number 0 here; zero for the units it left out.
  void sum_small_terms(const Input<A>& in, Range units, int64_t B, Range terms, A* dy) const {
    const int64_t count = Panel<A>::count(units.size()) * B * P;
    const A* const first = state_.dx_of(terms.begin);
    if (!in.rows) {
      const int64_t from = place_of<A>(units.begin, B);
      std::memcpy(dy, first + from, count * sizeof(A));
      for (int64_t t = terms.begin + 1; t < terms.end; ++t) {
        const A* const term = state_.dx_of(t) + from;
        for (int64_t i = 0; i < count; ++i) dy[i] += term[i];
      }
      const int64_t beyond = units.size() % P;
      for (int64_t b = 0; beyond && b < B; ++b)
        std::fill(dy + count - (b + 1) * P + beyond, dy + count - b * P, A(0));
      return;
    }
    std::fill(dy, dy + count, A(0));
    const Range columns = in.columns(units);
    for (int64_t k = columns.begin; k < columns.end; ++k) {
      A* const to = dy + place_of<A>(in.row(k) - units.begin, B);
      const int64_t from = place_of<A>(k, B);
      for (int64_t b = 0; b < B; ++b) {
        A sum = first[from + b * P];
        for (int64_t t = terms.begin + 1; t < terms.end; ++t) sum += state_.dx_of(t)[from + b * P];
        to[b * P] = sum;
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
