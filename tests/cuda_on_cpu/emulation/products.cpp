#include "products.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "common/dtype.h"
#include "schedule.h"
#include "warp.h"

namespace emulation {
namespace {

constexpr uint32_t kAllLanes = 0xffffffffu;

double value_of(Element type, uint32_t bits) {
  const auto half = static_cast<uint16_t>(bits);
  if (type == Element::bf16) return static_cast<float>(std::bit_cast<gdext::bfloat16>(half));
  if (type == Element::f16) return static_cast<float>(std::bit_cast<gdext::float16>(half));
  return std::bit_cast<float>(bits & 0xffffe000u);
}
int bytes_of(Element type) { return type == Element::tf32 ? 4 : 2; }

constexpr int kDoubleBias = 1023;
double power_of_2(int exponent) {
  return std::bit_cast<double>(static_cast<uint64_t>(exponent + kDoubleBias) << 52);
}

void want_full_warps(const char* what, Where where) {
  if (lanes_of_warp() != kAllLanes) fail(std::string(what) + " in a warp of fewer lanes", where);
}

}  // namespace

float tensor_core_sum(float c, const double* products, int count) {
  double largest = std::fabs(c), plain = c;
  for (int i = 0; i < count; ++i) {
    largest = std::max(largest, std::fabs(products[i]));
    plain += products[i];
  }
  if (!std::isfinite(plain) || largest == 0) return static_cast<float>(plain);
  // By the power of 2 that makes the last bit kept a 1, so that the rest is cut off by int64_t. (No
  // product of floats is too small for a normal double.)
  constexpr int kBits = 25;  // float32's 24 and one more
  const int exponent = static_cast<int>(std::bit_cast<uint64_t>(largest) >> 52) - kDoubleBias;
  const double last_bit = power_of_2(exponent + 1 - kBits),
               scale = power_of_2(kBits - 1 - exponent);
  auto whole = static_cast<int64_t>(c * scale);
  for (int i = 0; i < count; ++i) whole += static_cast<int64_t>(products[i] * scale);
  const double sum = static_cast<double>(whole) * last_bit;
  const auto rounded = static_cast<float>(sum);
  return std::fabs(rounded) > std::fabs(sum) ? std::nextafter(rounded, 0.0f) : rounded;
}

uint32_t to_tf32(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  constexpr uint32_t kDropped = 13, kInfinity = 0x7f800000u;
  if ((bits & kInfinity) == kInfinity) return bits & 0xffffe000u;  // a NaN's high bit stays
  return (bits + (1u << (kDropped - 1))) & 0xffffe000u;
}

void mma(Element type, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
         const float (&c)[4], Where where) {
  struct Offer {
    float a[4][2], b[2][2];  // by register, each with 2 elements, or 1 of tf32
  } mine;
  want_full_warps("mma.sync", where);
  const int packed = 4 / bytes_of(type);
  for (int i = 0; i < packed; ++i) {
    for (int r = 0; r < 4; ++r) mine.a[r][i] = value_of(type, a[r] >> (16 * i));
    for (int r = 0; r < 2; ++r) mine.b[r][i] = value_of(type, b[r] >> (16 * i));
  }
  const float addend[4] = {c[0], c[1], c[2], c[3]};  // d may be c
  const auto exchange = meet(kAllLanes, &mine, sizeof(mine), "mma.sync", where);
  const auto offers = [&](int from) -> const Offer& {
    return *reinterpret_cast<const Offer*>(exchange->of(from));
  };
  // Register pairs are 4 registers of k apart.
  const int g = lane() / 4, t = lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + 8 * (i / 2), col = 2 * t + i % 2;
    double products[16];
    int k = 0;
    for (int at = 0; at < 8; ++at) {  // of the registers along k
      const float* of_a = offers(row % 8 * 4 + at % 4).a[row / 8 + at / 4 * 2];
      const float* of_b = offers(col * 4 + at % 4).b[at / 4];
      for (int j = 0; j < packed; ++j) products[k++] = double(of_a[j]) * of_b[j];
    }
    d[i] = tensor_core_sum(addend[i], products, k);
  }
}

void mma_f16_k8(float (&d)[4], const uint32_t (&a)[2], uint32_t b, const float (&c)[4],
                Where where) {
  struct Offer {
    uint32_t a[2], b;
  };
  const Offer mine{{a[0], a[1]}, b};
  const float addend[4] = {c[0], c[1], c[2], c[3]};
  want_full_warps("mma.sync", where);
  const auto exchange = meet(kAllLanes, &mine, sizeof(mine), "mma.sync", where);
  const int g = lane() / 4, t = lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + 8 * (i / 2), col = 2 * t + i % 2;
    double products[8];
    for (int k = 0; k < 8; ++k) {
      const uint32_t of_a = offer_of<Offer>(*exchange, row % 8 * 4 + k / 2).a[row / 8];
      const uint32_t of_b = offer_of<Offer>(*exchange, col * 4 + k / 2).b;
      products[k] = value_of(Element::f16, of_a >> (16 * (k % 2))) *
                    value_of(Element::f16, of_b >> (16 * (k % 2)));
    }
    d[i] = tensor_core_sum(addend[i], products, 8);
  }
}

void mma_f64(double (&d)[2], double a, double b, const double (&c)[2], Where where) {
  const double mine[2] = {a, b}, addend[2] = {c[0], c[1]};
  want_full_warps("mma.sync", where);
  const auto exchange = meet(kAllLanes, mine, sizeof(mine), "mma.sync", where);
  struct Offer {
    double a, b;
  };
  const int g = lane() / 4, t = lane() % 4;
  for (int i = 0; i < 2; ++i) {
    d[i] = addend[i];
    for (int k = 0; k < 4; ++k)
      d[i] = std::fma(offer_of<Offer>(*exchange, g * 4 + k).a,
                      offer_of<Offer>(*exchange, (2 * t + i) * 4 + k).b, d[i]);
  }
}

void ldmatrix(uint32_t* registers, int matrices, bool transposed, const void* row, Where where) {
  constexpr size_t kRowBytes = 16;
  want_full_warps("ldmatrix", where);
  if (lane() < 8 * matrices) check_shared(row, kRowBytes, kRowBytes, "ldmatrix", where);
  const auto exchange = meet(kAllLanes, &row, sizeof(row), "ldmatrix", where);
  const int g = lane() / 4, t = lane() % 4;
  for (int m = 0; m < matrices; ++m)
    for (int i = 0; i < 2; ++i) {
      const int r = transposed ? 2 * t + i : g, c = transposed ? g : 2 * t + i;
      const auto* from = offer_of<const unsigned char*>(*exchange, 8 * m + r) + 2 * c;
      memcpy(reinterpret_cast<unsigned char*>(&registers[m]) + 2 * i, from, 2);
    }
}

namespace {

// The descriptor's fields (csrc/cuda/ptx/descriptor.cuh), read once more, from the bits.
struct Tile {
  Element type;
  bool mn_major;
  uint32_t start, leading, stride, line_bits;  // a line is of 1 << line_bits bytes
  Where where;

  Tile(Element type, WgmmaOperand operand, Where where)
      : type(type), mn_major(operand.mn_major), where(where) {
    const auto field = [&](int bit) {
      return static_cast<uint32_t>(operand.descriptor >> bit & 0x3fff) << 4;
    };
    start = field(0), leading = field(16), stride = field(32);
    constexpr uint32_t kLineBits[4] = {4, 7, 6, 5};
    line_bits = kLineBits[operand.descriptor >> 62];
    if (operand.descriptor >> 49 & 7) fail("wgmma: a base offset is not emulated", where);
    if (mn_major && type == Element::tf32) fail("wgmma: tf32 is k-major", where);
  }

  // Row i of A or column i of B; `depth` values along k.
  void read(int i, int depth, double* values) const {
    const uint32_t size = bytes_of(type);
    const int at_once = mn_major ? 1 : kPiece / size;
    for (int k = 0; k < depth; k += at_once) {
      const unsigned char* from = piece(i, k, size);
      for (int j = 0; j < at_once; ++j) {
        uint32_t bits = 0;
        if (size == 4)
          memcpy(&bits, from + 4 * j, 4);
        else
          memcpy(&bits, from + 2 * j, 2);
        values[k + j] = value_of(type, bits);
      }
    }
  }

 private:
  static constexpr int kPiece = 16;  // bytes that no layout takes apart

  // From element (i, k) on, to the piece's end.
  const unsigned char* piece(int i, int k, uint32_t size) const {
    const uint32_t along = (mn_major ? i : k) * size, across = mn_major ? k : i;
    const uint32_t line = 1u << line_bits;
    uint32_t at = start + across % 8 * line;
    if (line == kPiece)
      at += along % kPiece + along / kPiece * (mn_major ? stride : leading) +
            across / 8 * (mn_major ? leading : stride);
    else if (mn_major)
      at += along % line + (along >> line_bits) * leading + across / 8 * stride;
    else
      at += along + across / 8 * stride;
    at ^= at >> 3 & (line - 1) & 0x70;  // the swizzle
    return at_shared_address(at, mn_major ? size : kPiece, where);
  }
};

}  // namespace

void wgmma_fence(Where where) {
  meet(kAllLanes, nullptr, 0, "wgmma.fence", where);
  running().products_fenced = true;
}
void wgmma_commit(Where where) {
  meet(kAllLanes, nullptr, 0, "wgmma.commit_group", where);
  running().products.commit();
}
void wgmma_wait(size_t left, Where where) {
  meet(kAllLanes, nullptr, 0, "wgmma.wait_group", where);
  running().products.wait(left);
  running().products_fenced = false;
}

void wgmma(Element type, float* d, int registers, WgmmaOperand a, WgmmaOperand b, bool accumulate,
           Where where) {
  constexpr int kWarpgroup = 128;
  const uint64_t mine[2] = {a.descriptor, b.descriptor};
  struct Descriptors {
    uint64_t a, b;
  };
  const auto exchange = meet(kAllLanes, mine, sizeof(mine), "wgmma", where);
  Thread& me = running();
  if (me.block->threads.size() % kWarpgroup) fail("wgmma in a warpgroup of fewer threads", where);
  if (!me.products_fenced) fail("wgmma without wgmma.fence since the last wait", where);
  for_each_offer<Descriptors>(*exchange, [&](int, Descriptors other) {
    if (other.a != mine[0] || other.b != mine[1]) fail("wgmma: lanes differ in descriptors", where);
  });

  Accumulators& sum = me.accumulators[d];
  if (sum.in_flight++ == 0) sum.value.assign(d, d + registers);
  memset(d, 0xff, registers * sizeof(float));
  const Tile a_tile(type, a, where), b_tile(type, b, where);
  const int depth = type == Element::tf32 ? 8 : 16;
  const int first_row = me.index / warpSize % 4 * 16 + lane() / 4, first_col = 2 * (lane() % 4);
  me.issue(me.products, [=, &me] {
    Accumulators& sum = me.accumulators[d];
    double rows[2][16], cols[2][16];
    for (int i = 0; i < 2; ++i) a_tile.read(first_row + i * 8, depth, rows[i]);
    for (int r = 0; r < registers; ++r) {
      if (r % 4 == 0)
        for (int i = 0; i < 2; ++i) b_tile.read(r / 4 * 8 + first_col + i, depth, cols[i]);
      double products[16];
      for (int k = 0; k < depth; ++k) products[k] = rows[r / 2 % 2][k] * cols[r % 2][k];
      sum.value[r] = tensor_core_sum(accumulate ? sum.value[r] : 0.0f, products, depth);
    }
    if (--sum.in_flight) return;
    std::copy_n(sum.value.begin(), registers, d);
    me.accumulators.erase(d);
  });
}

}  // namespace emulation
