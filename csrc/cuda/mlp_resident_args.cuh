// What the blocks of a resident run (mlp_resident.cuh) are told: the network, and where in shared
// memory they keep what.
#pragma once
#include "cuda/mlp_batch.cuh"
#include "cuda/mlp_sweep.cuh"

namespace gdext::cuda {

constexpr int kResidentLayers = 16;
constexpr int kResidentThreads = 512;
// A thread of a sweep holds five numbers of each sample in registers, of which it has 128; and the
// sums over a tile's lanes are for at most as many numbers as the narrowest tile has columns.
constexpr int kResidentBatch = 8;

struct ResidentParameter {
  float *p, *m;  // m null: no momentum
  int64_t p_row, p_col, m_row, m_col;
  bool first;
  int group;
  SgdRule<float> rule{0, 0, 0, 0, false, false};  // but for lr
  bool plain;                                     // no momentum, no weight decay
};

// Places in shared memory count floats.
struct ResidentLayer {
  int I, O;
  int own_in, own_out;  // the most inputs and outputs that a block has
  MlpSlice slice;       // but for its pointers and its own sizes
  int w, m;             // [rows][pitch]; m: in shared memory, or in a block's part of global
  int b, mb;            // [own_out]
  int h, s, dz;         // [own_out rounded up][kB]
  Activation activation;
  ResidentParameter weight, bias;  // bias.p null: none
};

struct ResidentArgs {
  ResidentLayer layer[kResidentLayers] = {};
  int L, R, groups;
  bool momentum_shared;
  float* momentum;  // [R][momentum_size] where not
  int64_t momentum_size;
  float* areas;            // the grid's exchange
  int area, exchange;      // the size of an area; where the cluster's are
  int sums;                // for the terms of sweeps
  int x[2], x_rows;        // [x_rows][kB]
  int bytes, bytes_pitch;  // [kB][bytes_pitch] bytes
  int targets[2];          // [kB][C] of floats, or [kB] of int64
  int order[2];            // [kB] int64
  int rates[2];            // [groups] double
  int losses;              // [kB] double
  bool words;              // rows of bytes are aligned to 4
  MlpBatches<float> batches;
  MlpTargets<float> target;
  int64_t samples;
  const double* lr;  // [steps, groups] or null
  double lr_of_group[kResidentLayers];
  double* loss;  // [steps]

  explicit ResidentArgs(const MlpArgs& from) : batches(from), target(from) {}
};

// The share of block r, of R, of n things.
struct Share {
  int begin, end;
  __device__ Share(int n, int each, int r)
      : begin(r * each < n ? r * each : n), end(begin + each < n ? begin + each : n) {}
  __device__ int size() const { return end - begin; }
};

}  // namespace gdext::cuda
