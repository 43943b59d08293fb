// Atomics. Fibers make every access atomic; other threads may run before each, so that what the
// kernel reads and writes beside them shows its races.
#pragma once
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "emulation.h"

namespace emulation {

template <class T, class F>
T update_atomically(T* address, const char* what, Where where, const F& f) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  if (reinterpret_cast<uintptr_t>(address) % sizeof(T) != 0)
    fail(std::string(what) + ": an address that is not a multiple of " + std::to_string(sizeof(T)),
         where);
  maybe_yield(what, where);
  const T old = *address;
  *address = static_cast<T>(f(old));
  return old;
}

template <class T>
T wrapping_add(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    using U = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
  } else {
    return a + b;
  }
}

}  // namespace emulation

#define EMULATION_ATOMIC(name, expression)                                                      \
  template <class T>                                                                            \
  T name(T* address, std::type_identity_t<T> value,                                             \
         emulation::Where where = emulation::Where::current()) {                                \
    return emulation::update_atomically(address, #name, where,                                  \
                                        [&]([[maybe_unused]] T old) { return T(expression); }); \
  }
EMULATION_ATOMIC(atomicAdd, emulation::wrapping_add(old, value))
EMULATION_ATOMIC(atomicSub, emulation::wrapping_add(old, static_cast<T>(-value)))
EMULATION_ATOMIC(atomicExch, value)
EMULATION_ATOMIC(atomicMin, std::min(old, value))
EMULATION_ATOMIC(atomicMax, std::max(old, value))
EMULATION_ATOMIC(atomicAnd, old& value)
EMULATION_ATOMIC(atomicOr, old | value)
EMULATION_ATOMIC(atomicXor, old ^ value)
EMULATION_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
EMULATION_ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1)
#undef EMULATION_ATOMIC

template <class T>
T atomicCAS(T* address, std::type_identity_t<T> compare, std::type_identity_t<T> value,
            emulation::Where where = emulation::Where::current()) {
  return emulation::update_atomically(address, "atomicCAS", where,
                                      [&](T old) { return old == compare ? value : old; });
}

inline void __threadfence_block() {}
inline void __threadfence(emulation::Where where = emulation::Where::current()) {
  emulation::maybe_yield("__threadfence", where);
}
inline void __threadfence_system(emulation::Where where = emulation::Where::current()) {
  emulation::maybe_yield("__threadfence_system", where);
}
inline void __nanosleep(unsigned, emulation::Where where = emulation::Where::current()) {
  emulation::maybe_yield("__nanosleep", where);
}
