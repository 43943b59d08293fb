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
  static_assert(kBytes / kPiece % kThreadsOfBlock == 0 && kRowBytes % kTileDepth == 0);

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
    const T* data = static_cast<const T*>(operand.data);
    if (operand.in_pieces) {
      constexpr int kPieces = kBytes / kPiece, kPiecesOfRow = kRowBytes / kPiece;
#pragma unroll
      for (int i = 0; i < kPieces / kThreadsOfBlock; ++i) {
        const int at = threadIdx.x + i * kThreadsOfBlock;
        const int row = at / kPiecesOfRow, piece = at % kPiecesOfRow;
        const int64_t line = first_line + (kAlongK ? row : piece * kPerPiece);
        const int64_t k = first_k + (kAlongK ? piece * kPerPiece : row);
        const int64_t left = line < lines && k < depth ? (kAlongK ? depth - k : lines - line) : 0;
        const T* source = data + (left ? line * operand.line_stride + k * operand.k_stride : 0);
        const int bytes = static_cast<int>(left < kPerPiece ? left : kPerPiece) * kSize;
        ptx::cp_async<kPiece>(tile + offset(row, piece), source, bytes);
      }
    } else {
      // Consecutive threads read neighbours where the operand has any.
      const bool across = operand.line_stride == 1;
#pragma unroll 4
      for (int at = threadIdx.x; at < kLines * kDepth; at += kThreadsOfBlock) {
        const int in_line = across ? at % kLines : at / kDepth;
        const int in_k = across ? at / kLines : at % kDepth;
        const int64_t line = first_line + in_line, k = first_k + in_k;
        const bool inside = line < lines && k < depth;
        const T* source = data + (inside ? line * operand.line_stride + k * operand.k_stride : 0);
        unsigned char* to = tile + offset_of(in_line, in_k);
        if constexpr (kSize >= 4)
          ptx::cp_async<kSize>(to, source, inside ? kSize : 0);
        else
          *reinterpret_cast<T*>(to) = inside ? *source : T{};
      }
    }
  }

  // Of the 16 lines from `first_line` on, the `step`-th kFragmentDepth bytes along k.
  __device__ static Fragment<T> fragment(const unsigned char* tile, int first_line, int step) {
    Fragment<T> fragment;
    const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
    if constexpr (kSize == 8) {
#pragma unroll
      for (int i = 0; i < 2; ++i)
        fragment.r[i] = *reinterpret_cast<const double*>(
            tile + offset_of(first_line + g + 8 * i, step * 4 + t));
    } else if constexpr (kAlongK) {
      ptx::ldmatrix_x4(fragment.r, tile + offset(first_line + lane % 16, 2 * step + lane / 16));
    } else if constexpr (kSize == 2) {
      const int k = 16 * step + lane / 16 * 8 + lane % 8, line = first_line + lane / 8 % 2 * 8;
      ptx::ldmatrix_x4_trans(fragment.r, tile + offset(k, line / kPerPiece));
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        fragment.r[i] = *reinterpret_cast<const uint32_t*>(
            tile + offset_of(first_line + g + i % 2 * 8, 8 * step + t + i / 2 * 4));
    }
    return fragment;
  }
};

}  // namespace gdext::cuda
