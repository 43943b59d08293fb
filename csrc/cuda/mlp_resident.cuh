// Many steps of the whole network in one kernel, for float32 and batches of up to 8 samples: the
// weights stay in the shared memory of R blocks.
//
// The first of several layers is cut by outputs, all others by inputs, so that block r has slice r
// of every hidden h, z and dz, and computes it from what it has:
//
//   z[1] of slice r                                     from x
//   a term of z[l] for all outputs, from slice r of h[l-1];   the terms meet: slice r of z[l] here,
//                                                             or all of z[L] everywhere
//   loss and dz[L], in each block
//   slice r of dh[l-1] = w[l]^T dz[l], and the update of w[l];  slices of dz[l-1] meet, for l > 2
//
// That are 2L - 3 meetings (mlp_exchange.cuh) for L > 1 layers. The last pass over w[1] of a step
// is the first of the next one (mlp_sweep.cuh); the samples of the next step are fetched meanwhile.
#pragma once
#include "cuda/activations.cuh"
#include "cuda/mlp_resident_args.cuh"
#include "cuda/ptx.cuh"

namespace gdext::cuda {

template <int kB, class Exchange>
class Resident {
 public:
  __device__ Resident(const ResidentArgs& args, float* shared)
      : args_(args),
        shared_(shared),
        exchange_(shared + args.exchange, args.areas, args.area),
        rank_(Exchange::rank()) {}

  // Steps [begin, end) of the run.
  __device__ void run(int64_t begin, int64_t end, int shared_size) {
    for (int i = threadIdx.x; i < shared_size; i += blockDim.x) shared_[i] = 0;
    Exchange::begin();
    each_parameter([&](auto... at) { load(at..., begin); });
    for (int b = threadIdx.x; b < 2 * kB; b += blockDim.x)
      order((begin + b / kB) % 2)[b % kB] = sample_at(begin + b / kB, b % kB);
    __syncthreads();
    fetch(begin);
    receive(begin);
    forward_first(x(begin));
    for (int64_t n = begin; n < end; ++n) step(n, n + 1 < end);
    each_parameter([&](auto... at) { store(at...); });
  }

 private:
  using Layer = ResidentLayer;

  __device__ int64_t count(int64_t n) const {
    const int64_t left = args_.samples - n * args_.batches.B;
    return left < args_.batches.B ? left : args_.batches.B;
  }
  __device__ float* x(int64_t n) const { return shared_ + args_.x[n % 2]; }
  __device__ int64_t* order(int64_t n) const {
    return reinterpret_cast<int64_t*>(shared_ + args_.order[n % 2]);
  }
  __device__ double* rates(int64_t n) const {
    return reinterpret_cast<double*>(shared_ + args_.rates[n % 2]);
  }
  __device__ bool by_outputs(int l) const { return l == 0 && args_.L > 1; }
  __device__ bool is_last(int l) const { return l == args_.L - 1; }
  __device__ Share inputs(int l) const {
    const Layer& layer = args_.layer[l];
    return by_outputs(l) ? Share(layer.I, layer.I, 0) : Share(layer.I, layer.own_in, rank_);
  }
  // Those whose bias is here.
  __device__ Share outputs(int l) const {
    const Layer& layer = args_.layer[l];
    return is_last(l) ? Share(layer.O, layer.O, 0) : Share(layer.O, layer.own_out, rank_);
  }
  __device__ MlpSlice slice(int l) const {
    const Layer& layer = args_.layer[l];
    MlpSlice result = layer.slice;
    result.w = shared_ + layer.w;
    result.m = layer.weight.m ? momentum() + layer.m : nullptr;
    result.inputs = inputs(l).size();
    result.outputs = by_outputs(l) ? outputs(l).size() : layer.O;
    return result;
  }
  __device__ float* momentum() const {
    return args_.momentum_shared ? shared_ : args_.momentum + rank_ * args_.momentum_size;
  }

  // f(parameter, whether it is this block's to store, here, momentum here, pitch here, first and
  // number of rows (o), of columns (i))
  template <class F>
  __device__ void each_parameter(const F& f) const {
    for (int l = 0; l < args_.L; ++l) {
      const Layer& layer = args_.layer[l];
      const MlpSlice own = slice(l);
      const int first = by_outputs(l) ? outputs(l).begin : 0;
      f(layer.weight, true, own.w, own.m, own.pitch, first, own.outputs, inputs(l).begin,
        own.inputs);
      if (layer.bias.p)
        f(layer.bias, !is_last(l) || rank_ == 0, shared_ + layer.b, shared_ + layer.mb,
          layer.own_out, outputs(l).begin, outputs(l).size(), 0, 1);
    }
  }
  __device__ void load(const ResidentParameter& from, bool, float* p, float* m, int pitch,
                       int first_o, int O, int first_i, int I, int64_t step) const {
    for (int at = threadIdx.x; at < O * I; at += blockDim.x) {
      const int o = at / I, i = at % I;
      const int64_t row = first_o + o, col = first_i + i;
      p[i * pitch + o] = from.p[row * from.p_row + col * from.p_col];
      if (!from.m) continue;
      const bool none = from.first && step == 0;
      m[i * pitch + o] = none ? 0.0f : from.m[row * from.m_row + col * from.m_col];
    }
  }
  __device__ void store(const ResidentParameter& to, bool mine, const float* p, const float* m,
                        int pitch, int first_o, int O, int first_i, int I) const {
    if (!mine) return;
    for (int at = threadIdx.x; at < O * I; at += blockDim.x) {
      const int o = at / I, i = at % I;
      const int64_t row = first_o + o, col = first_i + i;
      to.p[row * to.p_row + col * to.p_col] = p[i * pitch + o];
      if (to.m) to.m[row * to.m_row + col * to.m_col] = m[i * pitch + o];
    }
  }

  // The number of the input that is sample b of step n; of those that there are not, any.
  __device__ int64_t sample_at(int64_t n, int b) const {
    return n * args_.batches.B + b < args_.samples && b < args_.batches.B
               ? args_.batches.sample(n, b)
               : 0;
  }

  // Has what step n reads copied to shared memory, and the order of step n + 1.
  __device__ void fetch(int64_t n) const {
    const Share own = inputs(0);
    const int64_t there = count(n);
    const int C = static_cast<int>(args_.target.C), thread = threadIdx.x;
    const MlpBatches<float>& from = args_.batches;
    for (int b = 0; b < kB; ++b) {
      const bool real = b < there;
      const int64_t sample = order(n)[b], at = sample * from.row_stride + own.begin;
      if (from.bytes) {
        const uint8_t* row = static_cast<const uint8_t*>(from.inputs) + at;
        unsigned char* to = bytes() + b * args_.bytes_pitch;
        if (args_.words) {
          for (int i = 4 * thread; i < own.size(); i += 4 * blockDim.x)
            ptx::cp_async<4>(to + i, row + i, own.size() - i < 4 ? own.size() - i : 4);
        } else {
          for (int i = thread; i < own.size(); i += blockDim.x) to[i] = row[i];
        }
      } else {
        const float* row = static_cast<const float*>(from.inputs) + at;
        for (int i = thread; i < own.size(); i += blockDim.x)
          ptx::cp_async<4>(x(n) + i * kB + b, row + i, real ? 4 : 0);
      }
      if (args_.target.loss == MlpLoss::mse) {
        for (int c = thread; c < C; c += blockDim.x)
          ptx::cp_async<4>(shared_ + args_.targets[n % 2] + b * C + c,
                           args_.target.row_of(sample) + c);
      } else if (thread == b) {
        ptx::cp_async<8>(classes(n) + b,
                         static_cast<const int64_t*>(args_.target.targets) + sample);
      }
    }
    for (int g = thread; g < args_.groups; g += blockDim.x) {
      if (args_.lr)
        ptx::cp_async<8>(rates(n) + g, args_.lr + n * args_.groups + g);
      else
        rates(n)[g] = args_.lr_of_group[g];
    }
    if (thread < kB) {
      const int64_t next = (n + 1) * from.B + thread;
      if (!from.order || next >= args_.samples)
        order(n + 1)[thread] = sample_at(n + 1, thread);
      else
        ptx::cp_async<8>(order(n + 1) + thread, from.order + next);
    }
    ptx::cp_async_commit();
  }
  // Waits for that, and makes numbers of bytes.
  __device__ void receive(int64_t n) const {
    ptx::cp_async_wait<0>();
    __syncthreads();
    if (!args_.batches.bytes) return;
    const int own = inputs(0).size();
    const int64_t there = count(n);
    for (int at = threadIdx.x; at < own * kB; at += blockDim.x) {
      const int i = at / kB, b = at % kB;
      const unsigned char byte = bytes()[b * args_.bytes_pitch + i];
      x(n)[at] = b < there ? args_.batches.from_byte(byte) : 0.0f;
    }
    __syncthreads();
  }
  __device__ unsigned char* bytes() const {
    return reinterpret_cast<unsigned char*>(shared_ + args_.bytes);
  }
  __device__ int64_t* classes(int64_t n) const {
    return reinterpret_cast<int64_t*>(shared_ + args_.targets[n % 2]);
  }

  __device__ void step(int64_t n, bool goes_on) {
    if (goes_on) fetch(n + 1);
    const int last = args_.L - 1;
    if (last > 0) {
      finish_first();
      for (int l = 1; l <= last; ++l) {
        forward(l);
        tell_terms(l);
        finish(l);
      }
    } else {
      tell_terms(0);
      finish(0);
    }
    loss(n);
    for (int l = last; l > 0; --l) {
      backward(l, n);
      if (l > 1) tell_gradient(l - 1);
    }
    for (int l = 0; l <= last; ++l) update_bias(l, n);
    if (goes_on) receive(n + 1);
    backward_first(n, goes_on);
  }

  __device__ float* sums() const { return shared_ + args_.sums; }
  __device__ int warps() const { return blockDim.x / kWarp; }

  // The terms of z[l] that the warps have left.
  __device__ float sum_of_shares(int l, int at) const {
    const MlpSlice& of = args_.layer[l].slice;
    float sum = 0;
    for (int share = 0; share < of.shares(warps()); ++share)
      sum += sums()[share * of.pitch * kB + at];
    return sum;
  }
  __device__ void forward_first(const float* x) const {
    sweep<kB, false, false>(slice(0), MlpSweepRule<true>{}, x, nullptr, nullptr, nullptr, sums());
    __syncthreads();
  }
  __device__ void forward(int l) const {
    sweep<kB, false, false>(slice(l), MlpSweepRule<true>{}, shared_ + args_.layer[l - 1].h, nullptr,
                            nullptr, nullptr, sums());
    __syncthreads();
  }

  // h and s from z - b of output j of this block's, sample b.
  __device__ void activate_at(const Layer& layer, int at, float z) const {
    if (layer.bias.p) z += shared_[layer.b + at / kB];
    const float y = activate(layer.activation, z);
    shared_[layer.h + at] = y;
    shared_[layer.s + at] = saves_z(layer.activation) ? z : y;
  }
  __device__ void finish_first() const {
    const Layer& layer = args_.layer[0];
    for (int at = threadIdx.x; at < outputs(0).size() * kB; at += blockDim.x)
      activate_at(layer, at, sum_of_shares(0, at));
    __syncthreads();
  }
  // The area of a block: from each other block the terms of its outputs.
  __device__ void tell_terms(int l) {
    const Layer& layer = args_.layer[l];
    const int size = layer.own_out * kB;
    if (is_last(l)) {
      for (int at = threadIdx.x; at < exchange_.copies() * size; at += blockDim.x)
        exchange_.put_copy(at / size, rank_ * size + at % size, sum_of_shares(l, at % size));
    } else {
      for (int at = threadIdx.x; at < layer.O * kB; at += blockDim.x)
        exchange_.put(at / size, rank_ * size + at % size, sum_of_shares(l, at));
    }
    exchange_.meet();
  }
  __device__ void finish(int l) const {
    const Layer& layer = args_.layer[l];
    const int size = layer.own_out * kB, own = outputs(l).size() * kB;
    const float* terms = is_last(l) ? exchange_.copied() : exchange_.area();
    if constexpr (Exchange::kManyBlocks) {
      const int lane = threadIdx.x % kWarp;
      for (int at = threadIdx.x / kWarp; at < own; at += warps()) {
        float z = 0;
        for (int r = lane; r < args_.R; r += kWarp) z += terms[r * size + at];
        z = warp_reduce(z, Sum{});
        if (lane == 0) activate_at(layer, at, z);
      }
    } else {
      for (int at = threadIdx.x; at < own; at += blockDim.x) {
        float z = 0;
        for (int r = 0; r < args_.R; ++r) z += terms[r * size + at];
        activate_at(layer, at, z);
      }
    }
    __syncthreads();
  }

  // dz of the last layer, whole, in each block; a warp for a sample.
  __device__ void loss(int64_t n) const {
    const Layer& layer = args_.layer[args_.L - 1];
    const MlpTargets<float>& target = args_.target;
    const int64_t there = count(n);
    const bool mse = target.loss == MlpLoss::mse;
    double norm = 0;
    if (target.mean && !mse)
      for (int b = 0; b < there; ++b) norm += target.counts(classes(n)[b]);
    else
      norm = target.known_norm(n, there);
    const float g = static_cast<float>(1 / norm);
    auto* losses = reinterpret_cast<double*>(shared_ + args_.losses);
    for (int b = threadIdx.x / kWarp; b < kB; b += warps()) {
      const auto output = [&](int64_t c) { return shared_[layer.h + c * kB + b]; };
      const auto store = [&](int64_t c, float dh) {
        const int at = static_cast<int>(c) * kB + b;
        shared_[layer.dz + at] = activation_backward(layer.activation, dh, shared_[layer.s + at]);
      };
      double value = 0;
      if (b >= there) {
        for (int c = threadIdx.x % kWarp; c < layer.O; c += kWarp)
          shared_[layer.dz + c * kB + b] = 0;
      } else if (mse) {
        value = mse_sample(target, shared_ + args_.targets[n % 2] + b * layer.O, g, output, store);
      } else {
        value = cross_entropy_sample(target, classes(n)[b], g, output, store);
      }
      if (threadIdx.x % kWarp == 0) losses[b] = value;
    }
    __syncthreads();
    if (rank_ != 0 || threadIdx.x != 0) return;
    double sum = 0;
    for (int b = 0; b < there; ++b) sum += losses[b];
    args_.loss[n] = sum / norm;
  }

  __device__ SgdRule<float> rule_of(const ResidentParameter& parameter, int64_t n) const {
    SgdRule<float> rule = parameter.rule;
    rule.lr = static_cast<float>(rates(n)[parameter.group]);
    return rule;
  }
  template <bool kDx>
  __device__ void sweep_back(int l, int64_t n, const float* x, const float* next,
                             const float* dz) const {
    const ResidentParameter& weight = args_.layer[l].weight;
    SgdRule<float> rule = rule_of(weight, n);
    if (weight.plain) {
      if (rule.maximize) rule.lr = -rule.lr;  // -(lr g) and (-lr) g are the same number
      sweep<kB, true, kDx>(slice(l), MlpSweepRule<true>{rule, false}, x, next, dz, sums(), sums());
    } else {
      const MlpSweepRule<false> update{rule, weight.first && n == 0};
      sweep<kB, true, kDx>(slice(l), update, x, next, dz, sums(), sums());
    }
    __syncthreads();
  }
  // dz of layer l - 1 for this block's units, and the update of layer l.
  __device__ void backward(int l, int64_t n) const {
    const Layer& below = args_.layer[l - 1];
    const MlpSlice& of = args_.layer[l].slice;
    const float* dz = is_last(l) ? shared_ + args_.layer[l].dz : exchange_.copied();
    sweep_back<true>(l, n, shared_ + below.h, nullptr, dz);
    for (int at = threadIdx.x; at < outputs(l - 1).size() * kB; at += blockDim.x) {
      float dh = 0;
      for (int tile = 0; tile < of.tiles(); ++tile) dh += sums()[tile * of.rows * kB + at];
      shared_[below.dz + at] = activation_backward(below.activation, dh, shared_[below.s + at]);
    }
    __syncthreads();
  }
  __device__ void tell_gradient(int l) {
    const Layer& layer = args_.layer[l];
    const int own = outputs(l).size() * kB, first = outputs(l).begin * kB;
    for (int at = threadIdx.x; at < exchange_.copies() * own; at += blockDim.x)
      exchange_.put_copy(at / own, first + at % own, shared_[layer.dz + at % own]);
    exchange_.meet();
  }
  __device__ void backward_first(int64_t n, bool goes_on) const {
    sweep_back<false>(0, n, x(n), goes_on ? x(n + 1) : nullptr, shared_ + args_.layer[0].dz);
  }
  __device__ void update_bias(int l, int64_t n) const {
    const Layer& layer = args_.layer[l];
    if (!layer.bias.p) return;
    const SgdRule<float> rule = rule_of(layer.bias, n);
    for (int j = threadIdx.x; j < outputs(l).size(); j += blockDim.x) {
      float db = 0;
#pragma unroll
      for (int b = 0; b < kB; ++b) db += shared_[layer.dz + j * kB + b];
      float m = layer.bias.m ? shared_[layer.mb + j] : 0.0f;
      rule(shared_[layer.b + j], db, m, layer.bias.first && n == 0);
      if (layer.bias.m) shared_[layer.mb + j] = m;
    }
  }

  const ResidentArgs& args_;
  float* const shared_;
  Exchange exchange_;
  const int rank_;
};

}  // namespace gdext::cuda
