// __syncwarp, shuffles, votes, matches and reductions of a warp.
#pragma once
#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#include "emulation.h"

namespace emulation {

// What lane `from` has offered; poison if it is not among the lanes that meet.
template <class T>
T offer_of(const Exchange& exchange, int from) {
  T value;
  if (from < 0 || from >= warpSize || !(exchange.lanes >> from & 1))
    memset(static_cast<void*>(&value), 0xff, sizeof(T));
  else
    memcpy(static_cast<void*>(&value), exchange.of(from), sizeof(T));
  return value;
}

// The value of the lane that `from`(lane in segment, width) names, both within the segment of
// `width` lanes; the lane's own where it names none.
template <class T, class F>
T shuffle(uint32_t mask, T value, int width, const char* what, Where where, const F& from) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8, "as CUDA's shuffles");
  if (width < 1 || width > warpSize || !std::has_single_bit(static_cast<unsigned>(width)))
    fail(std::string(what) + ": width " + std::to_string(width), where);
  const auto exchange = meet(mask, &value, sizeof(T), what, where);
  const int begin = lane() / width * width, source = from(lane() - begin);
  return source < 0 || source >= width ? value : offer_of<T>(*exchange, begin + source);
}

template <class T, class F>
void for_each_offer(const Exchange& exchange, const F& f) {
  for (int l = 0; l < warpSize; ++l)
    if (exchange.lanes >> l & 1) f(l, offer_of<T>(exchange, l));
}

template <class T, class Op>
T reduce(uint32_t mask, T value, const char* what, Where where, const Op& op) {
  static_assert(std::is_integral_v<T> && sizeof(T) == 4, "as CUDA's __reduce_*_sync");
  const auto exchange = meet(mask, &value, sizeof(T), what, where);
  bool first = true;
  T result{};
  for_each_offer<T>(*exchange, [&](int, T other) {
    result = first ? other : op(result, other);
    first = false;
  });
  return result;
}

}  // namespace emulation

#define EMULATION_WHERE emulation::Where where = emulation::Where::current()

inline void __syncwarp(unsigned mask = 0xffffffffu, EMULATION_WHERE) {
  emulation::meet(mask, nullptr, 0, "__syncwarp", where);
}
// All lanes that exist: on a GPU, those that happen to run together.
inline unsigned __activemask() { return emulation::lanes_of_warp(); }

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize, EMULATION_WHERE) {
  return emulation::shuffle(mask, value, width, "__shfl_sync", where, [=](int) {
    return static_cast<int>(static_cast<unsigned>(source) % static_cast<unsigned>(width));
  });
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize, EMULATION_WHERE) {
  return emulation::shuffle(mask, value, width, "__shfl_up_sync", where,
                            [=](int lane) { return lane - static_cast<int>(delta); });
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize, EMULATION_WHERE) {
  return emulation::shuffle(mask, value, width, "__shfl_down_sync", where,
                            [=](int lane) { return lane + static_cast<int>(delta); });
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = warpSize, EMULATION_WHERE) {
  // Unlike the others it may read an earlier segment: see the CUDA C++ programming guide.
  const auto exchange = emulation::meet(mask, &value, sizeof(T), "__shfl_xor_sync", where);
  const int me = emulation::lane(), source = me ^ lane_mask;
  return source >= me / width * width + width ? value : emulation::offer_of<T>(*exchange, source);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATION_WHERE) {
  const auto exchange =
      emulation::meet(mask, &predicate, sizeof(predicate), "__ballot_sync", where);
  unsigned result = 0;
  emulation::for_each_offer<int>(*exchange, [&](int l, int p) { result |= unsigned{p != 0} << l; });
  return result;
}
inline int __any_sync(unsigned mask, int predicate, EMULATION_WHERE) {
  return __ballot_sync(mask, predicate, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, EMULATION_WHERE) {
  return __ballot_sync(mask, !predicate, where) == 0;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, EMULATION_WHERE) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  const auto exchange = emulation::meet(mask, &value, sizeof(T), "__match_any_sync", where);
  unsigned result = 0;
  emulation::for_each_offer<T>(*exchange, [&](int l, T other) {
    result |= unsigned{memcmp(&other, &value, sizeof(T)) == 0} << l;
  });
  return result;
}
template <class T>
unsigned __match_all_sync(unsigned mask, T value, int* all, EMULATION_WHERE) {
  const unsigned same = __match_any_sync(mask, value, where);
  *all = same == (mask & emulation::lanes_of_warp());
  return *all ? same : 0;
}

template <class T>
T __reduce_add_sync(unsigned mask, T value, EMULATION_WHERE) {
  return emulation::reduce(mask, value, "__reduce_add_sync", where, [](T a, T b) {
    return static_cast<T>(static_cast<unsigned>(a) + static_cast<unsigned>(b));
  });
}
template <class T>
T __reduce_min_sync(unsigned mask, T value, EMULATION_WHERE) {
  return emulation::reduce(mask, value, "__reduce_min_sync", where,
                           [](T a, T b) { return std::min(a, b); });
}
template <class T>
T __reduce_max_sync(unsigned mask, T value, EMULATION_WHERE) {
  return emulation::reduce(mask, value, "__reduce_max_sync", where,
                           [](T a, T b) { return std::max(a, b); });
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value, EMULATION_WHERE) {
  return emulation::reduce(mask, value, "__reduce_and_sync", where,
                           [](unsigned a, unsigned b) { return a & b; });
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value, EMULATION_WHERE) {
  return emulation::reduce(mask, value, "__reduce_or_sync", where,
                           [](unsigned a, unsigned b) { return a | b; });
}
inline unsigned __reduce_xor_sync(unsigned mask, unsigned value, EMULATION_WHERE) {
  return emulation::reduce(mask, value, "__reduce_xor_sync", where,
                           [](unsigned a, unsigned b) { return a ^ b; });
}
