// The end of a tile of C whose sums are in shared memory, row by row.
//
// What an epilogue reads (a bias, a layer's output, a weight) may be far away, and the compiler
// keeps the order of reads and writes that might meet. So an epilogue may have, beside operator(),
// its two halves read(m, n) and finish(m, n, sum, what was read): then a thread reads for kAtOnce
// elements before it finishes the first of them.
#pragma once
#include "cuda/gemm_mma.cuh"

namespace gdext::cuda {

template <class Epilogue>
concept ReadsAhead = requires(const Epilogue& epilogue) { epilogue.read(int64_t{}, int64_t{}); };

struct NothingRead {};

template <class Epilogue>
__device__ auto read_ahead(const Epilogue& epilogue, int64_t m, int64_t n) {
  if constexpr (ReadsAhead<Epilogue>)
    return epilogue.read(m, n);
  else
    return NothingRead{};
}

// Of the tile that begins at (first_row, first_col) the rows [begin, end), by all threads of the
// block. `result`: its sums, rows Tile::kPitch apart. checked(m, n, sum): what goes into the
// epilogue.
template <class Tile, class A, class Checked, class Epilogue>
__device__ void finish_rows(const A* result, int begin, int end, int64_t first_row,
                            int64_t first_col, int64_t M, int64_t N, const Checked& checked,
                            const Epilogue& epilogue) {
  constexpr int kAtOnce = 4;
  using Read = decltype(read_ahead(epilogue, 0, 0));
#pragma unroll 1
  for (int first = begin * Tile::kCols + threadIdx.x; first < end * Tile::kCols;
       first += kAtOnce * Tile::kThreads) {
    Read read[kAtOnce];
    A sum[kAtOnce];
    const auto at = [&](int i, auto f) {
      const int element = first + i * Tile::kThreads;
      const int row = element / Tile::kCols, col = element % Tile::kCols;
      const int64_t m = first_row + row, n = first_col + col;
      if (element < end * Tile::kCols && m < M && n < N) f(row, col, m, n);
    };
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i)
      at(i, [&](int row, int col, int64_t m, int64_t n) {
        read[i] = read_ahead(epilogue, m, n);
        sum[i] = result[row * Tile::kPitch + col];
      });
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i)
      at(i, [&](int, int, int64_t m, int64_t n) {
        const A value = checked(m, n, sum[i]);
        if constexpr (ReadsAhead<Epilogue>)
          epilogue.finish(m, n, value, read[i]);
        else
          epilogue(m, n, value);
      });
  }
}

// Adds to these rows of the block's result what the other blocks of the cluster have, in the order
// of their ranks. Each thread has the elements that it has in finish_rows.
template <class Tile, class A>
__device__ void add_up_rows(A* result, int begin, int end, int blocks) {
  constexpr int kAtOnce = 4;
#pragma unroll 1
  for (int first = begin * Tile::kCols + threadIdx.x; first < end * Tile::kCols;
       first += kAtOnce * Tile::kThreads) {
    A sum[kAtOnce] = {};
    const auto at = [&](int i, auto f) {
      const int element = first + i * Tile::kThreads;
      if (element < end * Tile::kCols)
        f(result + element / Tile::kCols * Tile::kPitch + element % Tile::kCols);
    };
#pragma unroll 1
    for (int rank = 0; rank < blocks; ++rank)
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i)
        at(i, [&](A* own) { sum[i] += *ptx::map_shared_rank(own, rank); });
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) at(i, [&](A* own) { *own = sum[i]; });
  }
}

}  // namespace gdext::cuda
