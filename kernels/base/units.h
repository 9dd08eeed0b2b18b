// SPDX-License-Identifier: Apache-2.0
//
// Strong integer types for the quantities that are easily mixed up: pages, tokens, bytes, ids.
//
// Two raw integers of the same type in one signature are a bug waiting for its caller; these cost
// nothing at run time and do not convert into each other. Trivially copyable, safe from any thread.
//
//   PageCount needed = PagesFor(TokenCount(33), TokenCount(16));   // PageCount(3)
//   Bytes bytes = Bytes(needed.value() * geometry.page_bytes.value());
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <ostream>

namespace attnd {

// An integer that knows what it counts. `Tag` names the unit and is never defined.
template <typename Tag, typename Rep>
class StrongInt {
 public:
  using rep = Rep;

  constexpr StrongInt() = default;
  constexpr explicit StrongInt(Rep value) : value_(value) {}

  constexpr Rep value() const { return value_; }

  friend constexpr auto operator<=>(StrongInt, StrongInt) = default;

  constexpr StrongInt& operator+=(StrongInt other) {
    value_ += other.value_;
    return *this;
  }
  constexpr StrongInt& operator-=(StrongInt other) {
    value_ -= other.value_;
    return *this;
  }
  constexpr StrongInt& operator++() {
    ++value_;
    return *this;
  }
  constexpr StrongInt& operator--() {
    --value_;
    return *this;
  }
  friend constexpr StrongInt operator+(StrongInt a, StrongInt b) {
    return StrongInt(a.value_ + b.value_);
  }
  friend constexpr StrongInt operator-(StrongInt a, StrongInt b) {
    return StrongInt(a.value_ - b.value_);
  }

  template <typename H>
  friend H AbslHashValue(H h, StrongInt v) {
    return H::combine(std::move(h), v.value_);
  }
  friend std::ostream& operator<<(std::ostream& os, StrongInt v) { return os << v.value_; }

 private:
  Rep value_ = 0;
};

// The index of a page within its cache; dense from zero, reused after the page is freed.
using PageId = StrongInt<struct PageIdTag, uint32_t>;
using PageCount = StrongInt<struct PageCountTag, int64_t>;
using TokenCount = StrongInt<struct TokenCountTag, int64_t>;
using Bytes = StrongInt<struct BytesTag, uint64_t>;
// The index of a device among those that the daemon uses, from zero.
using DeviceIndex = StrongInt<struct DeviceIndexTag, uint32_t>;
// The index of a layer of a model, from zero.
using LayerIndex = StrongInt<struct LayerIndexTag, uint32_t>;

// Pages that hold `tokens` tokens. Requires tokens >= 0 and page_size > 0.
constexpr PageCount PagesFor(TokenCount tokens, TokenCount page_size) {
  return PageCount((tokens.value() + page_size.value() - 1) / page_size.value());
}

}  // namespace attnd
