// What the whole-network step keeps in its two buffers, `packed` and `scratch`, and the way of the
// parameters into the first and out of it.

// values[i] rounded to T and back.
template <class T>
void round_row(acc_t<T>* values, int64_t n) {
  if constexpr (!std::is_same_v<T, acc_t<T>>)
    for (int64_t i = 0; i < n; ++i) values[i] = static_cast<acc_t<T>>(static_cast<T>(values[i]));
}

template <class T>
struct MlpState {
  using A = acc_t<T>;
  static constexpr int P = Panel<A>::width;

  struct Layer {
    int parts;
    int64_t I, O, panels;
    bool wide, split;  // mlp.inl
    A *b, *mb, *db;    // [panels][P]; b is zeros where the layer has no bias; the others null as
                       // in Weights
    A* h;              // [panels][B][P] the layer's output; the last one's is not kept
    A* s;              // what its activation saves (saves_z): h itself, or z; becomes dz
    Activation activation;
    void (*activate)(A* values, int64_t n);
    void (*activation_backward)(const A* dy, const A* s, A* dz, int64_t n);

    // The panels, and the units, that a part owns.
    Range own(int part) const { return share(panels, part, parts); }
    Range own_units(int part) const {
      const Range p = own(part);
      return {std::min(p.begin * P, O), std::min(p.end * P, O)};
    }
  };

  // What a part meets of a layer's weights.
  struct Weights {
    WeightLayout<A> layout;
    Range inputs;  // the first is row 0
    A* w;
    A* m;   // the momentum; null: there is none
    A* dw;  // null: the gradient is not wanted

    Range panels() const { return {layout.first, layout.first + layout.panels}; }
  };

  // One part's own memory.
  struct Part {
    struct Live {
      A* x;           // [I/P panels][kSmallBatch][P]; of layer 0, B samples if gathers_alone
      int32_t* rows;  // [I]
    };
    std::unique_ptr<Weights[]> weights;  // [L]
    Input<A>* inputs;                    // [L] of the layers, in this step
    Live* live;                          // [L]
    uint8_t *seen, *seen_by_all;         // [widest I]
    int64_t* order;                      // [B]
    A* dzt;                              // [B/P][O][P] of the widest share of a layer
    A* dw_sums;                          // weight_gradient_sums
    A* dy;                               // [widest share of units/P][kSmallBatch][P]
    A *row, *saved, *probabilities;      // [O of the last layer, whole panels]
    A* last_dz;                          // [O/P of the last layer][kSmallBatch][P]
    double loss;
  };

  const MlpArgs& args;
  int parts;
  std::unique_ptr<Layer[]> layers;
  std::unique_ptr<Part[]> part;
  A* x[2];    // [I/P panels][B][P], of this step and the one before; not if gathers_alone
  int terms;  // of the last layer's z
  // Whether every part gathers the whole batch for itself, rather than a share of it for all: what
  // another core has just written comes slowly.
  bool gathers_alone;
  MlpSizes sizes;

  // dx^T [B/P][I][P], or dx [I/P panels][B][P] in small batches, as far as part `p` has it.
  A* dx_of(int64_t p) const { return dx_ + p * dx_stride_; }
  // Term `t` of the last layer's z, [panels][B][P], of step n. A part may be a step ahead of
  // another in small batches.
  A* term(int64_t t, int64_t n) const {
    return z_ + (args.B <= kSmallBatch ? n % 2 * terms + t : t) * z_stride_;
  }
  A* last_dz(const Part& part, int64_t B) const {
    return B <= kSmallBatch ? part.last_dz : layers[args.L - 1].s;
  }

  MlpState(const MlpArgs& args_, void* packed, void* scratch)
      : args(args_), parts(parts_of(args_)), layers(new Layer[args_.L]), part(new Part[parts]) {
    Arena keep(packed), work(scratch);
    const int64_t B = args.B, small = std::min(B, kSmallBatch);
    int64_t dw_sums = 0, widest_in = 0, widest_dx = 0, widest_share = 0, widest_own = 0;
    for (int64_t l = 0; l < args.L; ++l) {
      const MlpLayer& from = args.layers[l];
      Layer& layer = layers[l];
      layer.parts = parts;
      layer.I = from.I, layer.O = from.O, layer.panels = Panel<A>::count(from.O);
      layer.wide = layer.panels >= parts;
      layer.split = !layer.wide && l > 0 && l == args.L - 1 && layers[l - 1].wide;
      layer.activation = from.activation;
      with_activation(from.activation, [&](auto f) {
        layer.activate = activate_row<f.value, A>;
        layer.activation_backward = activation_backward_row<f.value, A>;
      });
      layer.b = keep.take<A>(layer.panels * P);
      layer.mb = from.b.data && has_momentum(from.b) ? keep.take<A>(layer.panels * P) : nullptr;
      layer.db = from.b.gradient ? keep.take<A>(layer.panels * P) : nullptr;
      layer.h = work.take<A>(layer.panels * B * P);
      const bool z = l < args.L - 1 && saves_z(from.activation);
      layer.s = z ? work.take<A>(layer.panels * B * P) : layer.h;

      const int64_t share_of = (layer.panels + parts - 1) / parts;
      widest_in = std::max(widest_in, layer.I);
      widest_own = std::max(widest_own, share_of);
      dw_sums = std::max(dw_sums,
                         weight_gradient_sums(B, layer.I, layer.wide ? share_of : layer.panels, P));
      if (l > 0) {
        widest_dx = std::max(widest_dx, Panel<A>::count(layer.I));
        widest_share = std::max(widest_share, layer.wide ? share_of : layer.panels);
      }
    }
    const int64_t first_panels = Panel<A>::count(layers[0].I), sample_panels = Panel<A>::count(B);
    gathers_alone = B <= kSmallBatch || (parts <= 2 && B <= kLongBatch);
    for (A*& buffer : x) buffer = work.take<A>(gathers_alone ? 0 : first_panels * B * P);
    dx_stride_ = widest_dx * P * std::max(small, B > kSmallBatch ? sample_panels * P : 0);
    dx_ = work.take<A>(parts * dx_stride_);
    const Layer& last = layers[args.L - 1];
    terms = last.split ? parts : 1;
    z_stride_ = last.panels * B * P;
    z_ = work.take<A>((B <= kSmallBatch ? 2 : 1) * terms * z_stride_);
    for (int p = 0; p < parts; ++p) {
      Part& own = part[p];
      own.weights.reset(new Weights[args.L]);
      for (int64_t l = 0; l < args.L; ++l)
        own.weights[l] = layers[l].wide || layers[l].split || p == 0 ? take_weights(l, p, keep)
                                                                     : part[0].weights[l];
      own.inputs = work.take<Input<A>>(args.L);
      own.live = work.take<typename Part::Live>(args.L);
      for (int64_t l = 0; l < args.L; ++l) {
        const bool needed = l == 0 || layers[l - 1].activation == Activation::relu;
        const int64_t samples = l == 0 && gathers_alone ? B : small;
        A* live = work.take<A>(needed ? Panel<A>::count(layers[l].I) * samples * P : 0);
        int32_t* rows = work.take<int32_t>(needed ? layers[l].I : 0);
        if (scratch) own.live[l] = {live, rows};
      }
      own.seen = work.take<uint8_t>(widest_in);
      own.seen_by_all = work.take<uint8_t>(widest_in);
      own.order = work.take<int64_t>(args.order ? 0 : B);
      own.dzt = work.take<A>(B > kSmallBatch ? sample_panels * widest_share * P * P : 0);
      own.dw_sums = work.take<A>(dw_sums);
      own.dy = work.take<A>(widest_own * small * P);
      for (A** row : {&own.row, &own.saved, &own.probabilities})
        *row = work.take<A>(last.panels * P);
      own.last_dz = work.take<A>(last.panels * small * P);
    }
    sizes = {keep.used(), work.used()};
  }

  // As many as the work of a step pays for, and no more than the widest layer has panels.
  static int parts_of(const MlpArgs& args) {
    constexpr int64_t kLeastWork = 100 * 1000;  // multiplications per part
    int64_t work = 0, panels = 1;
    for (int64_t l = 0; l < args.L; ++l) {
      work += 3 * args.B * args.layers[l].I * args.layers[l].O;
      panels = std::max(panels, Panel<A>::count(args.layers[l].O));
    }
    return static_cast<int>(std::max<int64_t>(
        std::min({static_cast<int64_t>(args.threads), panels, work / kLeastWork}), 1));
  }

  // Each part for what it owns.
  void pack(int p) {
    for (int64_t l = 0; l < args.L; ++l) {
      const Layer& layer = layers[l];
      const Weights& own = part[p].weights[l];
      pack_parameter(args.layers[l].w, own.inputs, layer.O, packs(l, p), own.layout, own.w, own.m);
      if (args.layers[l].b.data)
        pack_parameter(args.layers[l].b, {0, 1}, layer.O, layer.own(p), kBiases, layer.b, layer.mb);
      else
        std::fill(layer.b + layer.own(p).begin * P, layer.b + layer.own(p).end * P, A(0));
    }
  }
  void unpack(int p) {
    for (int64_t l = 0; l < args.L; ++l) {
      const Layer& layer = layers[l];
      const Weights& own = part[p].weights[l];
      unpack_parameter(args.layers[l].w, layer.I, own.inputs, layer.O, packs(l, p), own.layout,
                       own.w, own.m, own.dw);
      if (args.layers[l].b.data)
        unpack_parameter(args.layers[l].b, 1, {0, 1}, layer.O, layer.own(p), kBiases, layer.b,
                         layer.mb, layer.db);
    }
  }

 private:
  A *dx_, *z_;
  int64_t dx_stride_, z_stride_;

  bool has_momentum(const MlpParameter& p) const {
    return !p.gradient && args.groups[p.group].momentum != 0;
  }

  Weights take_weights(int64_t l, int p, Arena& keep) const {
    const Layer& layer = layers[l];
    const Range panels = layer.wide ? layer.own(p) : Range{0, layer.panels};
    Weights own{};
    own.layout = {panels.begin, panels.size()};
    own.inputs = layer.split ? layers[l - 1].own_units(p) : Range{0, layer.I};
    const int64_t size = own.layout.size(own.inputs.size());
    own.w = keep.take<A>(size);
    if (has_momentum(args.layers[l].w)) own.m = keep.take<A>(size);
    if (args.layers[l].w.gradient) own.dw = keep.take<A>(size);
    return own;
  }
  // The panels of layer l that part `p` packs of what it meets.
  Range packs(int64_t l, int p) const {
    return layers[l].split ? part[p].weights[l].panels() : layers[l].own(p);
  }

  // The layout of biases, [panels][P]: as weights of one row.
  static constexpr struct {
    int64_t at(int64_t p, int64_t) const { return p * P; }
  } kBiases{};

  template <class Layout>
  static void pack_parameter(const MlpParameter& from, Range inputs, int64_t O, Range panels,
                             const Layout& layout, A* to, A* momentum) {
    const auto pack = [&](const void* data, int64_t row_stride, int64_t col_stride, A* packed) {
      pack_panels(static_cast<const T*>(data) + inputs.begin * col_stride, row_stride, col_stride,
                  inputs.size(), O, panels, layout, packed);
    };
    pack(from.data, from.row_stride, from.col_stride, to);
    if (!momentum) return;
    if (!from.first)
      return pack(from.momentum, from.momentum_row_stride, from.momentum_col_stride, momentum);
    for (int64_t p = panels.begin; p < panels.end; ++p)
      for (int64_t i = 0; i < inputs.size(); ++i) std::fill_n(momentum + layout.at(p, i), P, A(0));
  }
  // I: of the whole parameter.
  template <class Layout>
  static void unpack_parameter(const MlpParameter& to, int64_t I, Range inputs, int64_t O,
                               Range panels, const Layout& layout, const A* from, const A* momentum,
                               const A* gradient) {
    const auto unpack = [&](const A* packed, auto* data, int64_t row_stride, int64_t col_stride) {
      unpack_panels(packed, layout, inputs.size(), O, panels, data + inputs.begin * col_stride,
                    row_stride, col_stride);
    };
    if (gradient) return unpack(gradient, static_cast<A*>(to.gradient), I, 1);  // all has changed
    unpack(from, static_cast<T*>(to.data), to.row_stride, to.col_stride);
    if (momentum)
      unpack(momentum, static_cast<T*>(to.momentum), to.momentum_row_stride,
             to.momentum_col_stride);
  }
};
