// An operand of a product by tensor cores: its tiles in shared memory, how they get there, and how
// a warp reads fragments of them.
//
// Both operands are lines along k: rows of A, columns of B. A tile is kLines of them, kTileDepth
// bytes deep, and lies in shared memory as the operand does in global memory: rows of it run along
// k or across the lines. Pieces of 16 bytes change places within their row (by an exclusive or with
// the row's number), so that the eight rows which a fragment reads at once lie in different banks.
#pragma once
#include "cuda/common.cuh"
#include "cuda/ptx.cuh"

namespace gdext::cuda {

constexpr int kPiece = 16;      // bytes, which move together
constexpr int kTileDepth = 64;  // bytes of each line in a tile

// Which elements of an operand are neighbours in memory: those of a line, or the lines' k-th ones.
enum class Adjacent { along_k, across_lines };

// Element (line, k) is at data[line * line_stride + k * k_stride].
struct Operand {
  const void* data;
  int64_t line_stride, k_stride;
  bool in_pieces;  // neighbours as the tile has them, and every row of the tile aligned to 16 bytes
};

template <class T>
Operand operand(const void* data, int64_t line_stride, int64_t k_stride, Adjacent adjacent) {
  const bool along_k = adjacent == Adjacent::along_k;
  const int64_t near = along_k ? k_stride : line_stride, far = along_k ? line_stride : k_stride;
  return {data, line_stride, k_stride,
          near == 1 && far * static_cast<int64_t>(sizeof(T)) % kPiece == 0 &&
              reinterpret_cast<uintptr_t>(data) % kPiece == 0};
}

// Four registers (two of float64) hold a fragment of 16 lines and kFragmentDepth bytes along k:
// what mma wants of A, and of two neighbouring B (ptx/mma.cuh), with
// g = lane / 4 and t = lane % 4:
//   16 bits  lines g and g+8 at k 2t, 2t+1; the same at 2t+8, 2t+9
//   float32  lines g and g+8 at k t; the same at t+4
//   float64  lines g and g+8 at k t
constexpr int kFragmentDepth = 32;  // bytes

template <class T>
struct Fragment {
  using Register = std::conditional_t<sizeof(T) == 8, double, uint32_t>;
  static constexpr int kRegisters = kFragmentDepth / static_cast<int>(sizeof(Register)) / 2;
  Register r[kRegisters];
};

template <class T, int kLines, Adjacent kAdjacent, int kThreadsOfBlock>
struct OperandTile {
  static constexpr bool kAlongK = kAdjacent == Adjacent::along_k;
  static constexpr int kSize = sizeof(T), kPerPiece = kPiece / kSize;
  static constexpr int kDepth = kTileDepth / kSize;
  static constexpr int kRowBytes = kAlongK ? kTileDepth : kLines * kSize;
  static constexpr int kBytes = kLines * kTileDepth;
  // ldmatrix moves pairs of 16 bits; float32's neighbours along k are such pairs.
  static constexpr bool kByMatrices = kSize == 2 || (kSize == 4 && kAlongK);
  static_assert(kBytes / kPiece % kThreadsOfBlock == 0 && kRowBytes % kTileDepth == 0);
  // A thread moves the same piece of rows kRowsAtOnce apart, which have the same spread.
  static constexpr int kPiecesOfRow = kRowBytes / kPiece;
  static constexpr int kPiecesOfThread = kBytes / kPiece / kThreadsOfBlock;
  static constexpr int kRowsAtOnce = kThreadsOfBlock / kPiecesOfRow;
  static constexpr int kPeriod = kAlongK || kSize == 2 ? 8 : 4;  // of the rows, in offset
  static_assert(kRowsAtOnce % kPeriod == 0 && kThreadsOfBlock % kPiecesOfRow == 0);

  // Rows of 64 bytes share 128, all banks, by two.
  __device__ static int offset(int row, int piece) {
    const int spread = kAlongK      ? (kSize == 8 ? (row >> 1 & 1) << 1 : row >> 1 & 3)
                       : kSize == 2 ? row & 7
                                    : (row & 3) << 1;
    return row * kRowBytes + (piece ^ spread) * kPiece;
  }
  __device__ static int offset_of(int line, int k) {
    const int row = kAlongK ? line : k, along = kAlongK ? k : line;
    return offset(row, along / kPerPiece) + along % kPerPiece * kSize;
  }

  // Begins to copy the tile whose first element is (first_line, first_k); zeros are what lies
  // outside the operand's `lines` and `depth`. Seen after the thread's cp_async_wait and a barrier.
  __device__ static void fetch(unsigned char* tile, const Operand& operand, int64_t first_line,
                               int64_t first_k, int64_t lines, int64_t depth) {
    const int line_count = at_most(lines - first_line, kLines);
    const int k_count = at_most(depth - first_k, kDepth);
    const T* corner = corner_of(operand, first_line, first_k);
    if (operand.in_pieces)
      fetch_pieces(tile, operand, corner, line_count, k_count);
    else
      fetch_elements(tile, operand, corner, line_count, k_count);
  }

  // The same in two halves, by way of registers: the thread's pieces of a tile, and their store.
  struct Held {
    Pack<T, kPerPiece> piece[kPiecesOfThread];
  };
  __device__ static void load(Held& held, const Operand& operand, int64_t first_line,
                              int64_t first_k, int64_t lines, int64_t depth) {
    const int line_count = at_most(lines - first_line, kLines);
    const int k_count = at_most(depth - first_k, kDepth);
    const int row = threadIdx.x / kPiecesOfRow, along = threadIdx.x % kPiecesOfRow * kPerPiece;
    const int rows = kAlongK ? line_count : k_count;
    const int left = (kAlongK ? k_count : line_count) - along;
    const int64_t far = kAlongK ? operand.line_stride : operand.k_stride;
    const int64_t near = kAlongK ? operand.k_stride : operand.line_stride;
    const T* from = corner_of(operand, first_line, first_k) + row * far + along * near;
#pragma unroll
    for (int i = 0; i < kPiecesOfThread; ++i, from += kRowsAtOnce * far) {
      const int inside = row + i * kRowsAtOnce < rows ? left : 0;
      if (operand.in_pieces && inside >= kPerPiece)
        held.piece[i] = *reinterpret_cast<const Pack<T, kPerPiece>*>(from);
      else
#pragma unroll
        for (int j = 0; j < kPerPiece; ++j)
          held.piece[i].value[j] = j < inside ? from[j * near] : T{};
    }
  }
  __device__ static void store(unsigned char* tile, const Held& held) {
    const int row = threadIdx.x / kPiecesOfRow, piece = threadIdx.x % kPiecesOfRow;
    unsigned char* to = tile + offset(row, piece);
#pragma unroll
    for (int i = 0; i < kPiecesOfThread; ++i)
      *reinterpret_cast<Pack<T, kPerPiece>*>(to + i * kRowsAtOnce * kRowBytes) = held.piece[i];
  }

  // Where in a tile the lane begins to read the lines of its warp, which begin at `warp_line`.
  __device__ static int lane_offset(int warp_line) {
    const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
    if constexpr (kByMatrices && kAlongK) return offset(warp_line + lane % 16, lane / 16);
    if constexpr (kByMatrices)
      return offset(lane / 16 * 8 + lane % 8, warp_line / kPerPiece + lane / 8 % 2);
    return offset_of(warp_line + g, t);
  }

  // Of the warp's lines the `block`-th 16, of the tile's depth the `step`-th kFragmentDepth bytes.
  // From `lane_offset` that is a number of rows away, which keep its spread, and of pieces, whose
  // bits are 0 in it but for the spread: an exclusive or.
  __device__ static Fragment<T> fragment(const unsigned char* tile, int lane_offset, int block,
                                         int step) {
    constexpr int kPiecesOfBlock = 16 / kPerPiece;
    Fragment<T> fragment;
    const auto at = [&](int rows, int pieces) {
      return tile + (lane_offset ^ pieces * kPiece) + rows * kRowBytes;
    };
    if constexpr (kByMatrices && kAlongK)
      ptx::ldmatrix_x4(fragment.r, at(block * 16, step * 2));
    else if constexpr (kByMatrices)
      ptx::ldmatrix_x4_trans(fragment.r, at(step * 16, block * kPiecesOfBlock));
    else
#pragma unroll
      for (int i = 0; i < Fragment<T>::kRegisters; ++i) {
        const int line = i % 2 * 8, k = i / 2 * 4 + step * kFragmentDepth / kSize;
        fragment.r[i] = *reinterpret_cast<const typename Fragment<T>::Register*>(
            kAlongK ? at(block * 16 + line, k / kPerPiece)
                    : at(k, block * kPiecesOfBlock + line / kPerPiece));
      }
    return fragment;
  }

 private:
  __device__ static int at_most(int64_t n, int most) {
    return n < most ? static_cast<int>(n) : most;
  }
  __device__ static const T* corner_of(const Operand& operand, int64_t line, int64_t k) {
    return static_cast<const T*>(operand.data) + line * operand.line_stride + k * operand.k_stride;
  }

  __device__ static void fetch_pieces(unsigned char* tile, const Operand& operand, const T* corner,
                                      int line_count, int k_count) {
    const int first_row = threadIdx.x / kPiecesOfRow, piece = threadIdx.x % kPiecesOfRow;
    const int rows = kAlongK ? line_count : k_count, along = kAlongK ? k_count : line_count;
    const int64_t far = kAlongK ? operand.line_stride : operand.k_stride;
    const int left = along - piece * kPerPiece;
    const int bytes = (left < 0 ? 0 : left < kPerPiece ? left : kPerPiece) * kSize;
    unsigned char* to = tile + offset(first_row, piece);
    const T* from = corner + first_row * far + piece * kPerPiece;
#pragma unroll
    for (int i = 0; i < kPiecesOfThread; ++i) {
      const bool inside = bytes != 0 && first_row + i * kRowsAtOnce < rows;
      ptx::cp_async<kPiece>(to + i * kRowsAtOnce * kRowBytes,
                            inside ? from + i * kRowsAtOnce * far : operand.data,
                            inside ? bytes : 0);
    }
  }

  __device__ static void fetch_elements(unsigned char* tile, const Operand& operand,
                                        const T* corner, int line_count, int k_count) {
    // Consecutive threads read neighbours where the operand has any.
    const bool across = operand.line_stride == 1;
#pragma unroll 4
    for (int at = threadIdx.x; at < kLines * kDepth; at += kThreadsOfBlock) {
      const int line = across ? at % kLines : at / kDepth, k = across ? at / kLines : at % kDepth;
      const bool inside = line < line_count && k < k_count;
      const T* source = inside ? corner + line * operand.line_stride + k * operand.k_stride
                               : static_cast<const T*>(operand.data);
      unsigned char* to = tile + offset_of(line, k);
      if constexpr (kSize >= 4)
        ptx::cp_async<kSize>(to, source, inside ? kSize : 0);
      else
        *reinterpret_cast<T*>(to) = inside ? *source : T{};
    }
  }
};

}  // namespace gdext::cuda
