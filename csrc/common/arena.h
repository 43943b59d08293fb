// Hands out aligned pieces of a buffer; with base null it only counts.
#pragma once
#include <cstdint>

namespace gdext {

class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}
  template <class E>
  E* take(int64_t count) {
    char* piece = base_ ? base_ + used_ : nullptr;
    used_ += (count * static_cast<int64_t>(sizeof(E)) + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<E*>(piece);
  }
  int64_t used() const { return used_; }

 private:
  static constexpr int64_t kAlignment = 64;
  char* base_;
  int64_t used_ = 0;
};

}  // namespace gdext
