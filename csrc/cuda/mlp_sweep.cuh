// A block's products with its slice of one layer's weights (mlp_resident.cuh): one pass over them
// makes whichever of three things are asked for,
//
//   dx[k] = sum_o w[o,k] dz[o],  w <- the update with dz[o] x[k],  z[o] = sum_k w[o,k] next[k]
//
// z with the new weights: so the update of a step and the first product of the next one share a
// pass. For kB samples at a time, whose numbers lie side by side.
//
// In shared memory the slice is [rows][pitch], o along a row. A tile is `width` columns and is a
// warp's, or, where the warps are more than the tiles, several warps' with a share of the rows
// each; where the width is less than a warp, a warp has several rows at a time. All sums are taken
// in an order that depends on these sizes alone.
#pragma once
#include "common/sgd_rule.h"
#include "cuda/common.cuh"

namespace gdext::cuda {

struct MlpSlice {
  float* w;   // [rows][pitch], zeros outside of [inputs][outputs]
  float* m;   // the same, or null
  int rows;   // a multiple of kMostRun
  int pitch;  // a multiple of `width`
  int width;  // 8, 16 or 32
  int inputs, outputs;

  static constexpr int kMostRun = 4;
  GDEXT_HD int tiles() const { return pitch / width; }
  // Shares of the rows that the warps have.
  GDEXT_HD int shares(int warps) const { return warps > tiles() ? warps / tiles() : 1; }
};

// Rows that a thread takes at a time, and the numbers of samples in them: a vector or two.
template <int kB>
constexpr int kRun = kB < MlpSlice::kMostRun ? MlpSlice::kMostRun / kB : 1;
template <int kB>
constexpr int kNumbers = kRun<kB> * kB;

template <int kB>
__device__ void load_numbers(const float* from, float (&to)[kNumbers<kB>]) {
#pragma unroll
  for (int i = 0; i < kNumbers<kB>; i += 4) {
    const auto pack = *reinterpret_cast<const Pack<float, 4>*>(from + i);
#pragma unroll
    for (int j = 0; j < 4; ++j) to[i + j] = pack.value[j];
  }
}

// The sums of kN numbers over `width` neighbouring lanes, width >= kN: the lane is left with that
// of number `which`, as are those that differ from it in the lowest bits only.
template <int kN>
__device__ float sum_over_lanes(float (&p)[kN], int width, int& which) {
  which = 0;
  int distance = width / 2;
#pragma unroll
  for (int half = kN / 2; half > 0; half /= 2, distance /= 2) {
    const bool upper = threadIdx.x & distance;
    which += upper ? half : 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float given = upper ? p[i] : p[i + half], kept = upper ? p[i + half] : p[i];
      p[i] = kept + __shfl_xor_sync(0xffffffffu, given, distance);
    }
  }
  for (; distance > 0; distance /= 2) p[0] += __shfl_xor_sync(0xffffffffu, p[0], distance);
  return p[0];
}

// kPlain: neither momentum nor weight decay, decided before the loops.
template <bool kPlain>
struct MlpSweepRule {
  SgdRule<float> rule{0, 0, 0, 0, false, false};
  bool first = false;

  __device__ void operator()(float& w, float d, float* m) const {
    if constexpr (kPlain) {
      w -= rule.lr * d;
    } else {
      float momentum = m ? *m : 0.0f;
      rule(w, d, momentum, first);
      if (m) *m = momentum;
    }
  }
};

// x: [rows][kB]; next: the same, or null for no product: then z is not written.
// dz: [outputs][kB]. dx: [tiles][rows][kB], terms to be added up. z: [shares][pitch][kB], likewise.
// kUpdate false: no update, and z is of x.
template <int kB, bool kUpdate, bool kDx, bool kPlain>
__device__ void sweep(const MlpSlice& in, const MlpSweepRule<kPlain>& update, const float* x,
                      const float* next, const float* dz, float* dx, float* z) {
  constexpr int kRows = kRun<kB>, kN = kNumbers<kB>;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const int tiles = in.tiles(), at_once = tiles < warps ? tiles : warps;
  const int shares = in.shares(warps), share = warp / at_once;
  const int along = kWarp / in.width;  // runs of rows that a warp has at a time
  if (share >= shares) return;
  for (int tile = warp % at_once; tile < tiles; tile += at_once) {
    const int o = tile * in.width + lane % in.width;
    const bool real = o < in.outputs;
    float d[kB], sum[kB] = {};
#pragma unroll
    for (int b = 0; b < kB; ++b) d[b] = kUpdate && real ? dz[o * kB + b] : 0.0f;
    // The lanes of a warp stay together, for the shuffles.
    for (int first = share * along * kRows; first < in.rows; first += shares * along * kRows) {
      const int k = first + lane / in.width * kRows;
      const bool inside = k < in.rows;
      float w[kRows], now[kN], then[kN], p[kN];
      if (inside) {
        load_numbers<kB>(x + k * kB, now);
        if (kUpdate && next) load_numbers<kB>(next + k * kB, then);
      }
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const int at = (k + i) * in.pitch + o;
        w[i] = inside ? in.w[at] : 0.0f;
        if constexpr (kDx)
#pragma unroll
          for (int b = 0; b < kB; ++b) p[i * kB + b] = w[i] * d[b];
        if (kUpdate && real && k + i < in.inputs) {
          float dw = 0.0f;
#pragma unroll
          for (int b = 0; b < kB; ++b) dw += d[b] * now[i * kB + b];
          update(w[i], dw, in.m ? in.m + at : nullptr);
          in.w[at] = w[i];
        }
        if (inside && (!kUpdate || next))
#pragma unroll
          for (int b = 0; b < kB; ++b) sum[b] += w[i] * (kUpdate ? then : now)[i * kB + b];
      }
      if constexpr (kDx) {
        int which;
        const float total = sum_over_lanes(p, in.width, which);
        if (inside && lane % (in.width / kN) == 0) dx[(tile * in.rows + k) * kB + which] = total;
      }
    }
    if (kUpdate && !next) continue;
#pragma unroll
    for (int b = 0; b < kB; ++b) {
      for (int distance = in.width; distance < kWarp; distance *= 2)
        sum[b] += __shfl_xor_sync(0xffffffffu, sum[b], distance);
      if (lane < in.width) z[(share * in.pitch + o) * kB + b] = sum[b];
    }
  }
}

}  // namespace gdext::cuda
