// SPDX-License-Identifier: Apache-2.0
//
// Memory that starts out as NaN in every float type, aligned as a pool must be: what reads a byte
// that nobody wrote shows it.
//
//   PoisonedMemory pool(Bytes(8 << 20));
//   KvCache cache(pool.bytes(), options, clock);
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <span>

#include "kernels/base/units.h"

namespace attnd {

// Four of them are a NaN in fp32, two in fp16 and in bf16.
inline constexpr unsigned char kPoisonByte = 0xff;

inline void Poison(std::span<std::byte> bytes) {
  std::memset(bytes.data(), kPoisonByte, bytes.size());
}

class PoisonedMemory {
 public:
  explicit PoisonedMemory(Bytes size)
      : size_(size.value()),
        data_(static_cast<std::byte*>(::operator new(size_, std::align_val_t(kAlignment)))) {
    Poison(bytes());
  }
  PoisonedMemory(const PoisonedMemory&) = delete;
  PoisonedMemory& operator=(const PoisonedMemory&) = delete;
  ~PoisonedMemory() { ::operator delete(data_, std::align_val_t(kAlignment)); }

  std::span<std::byte> bytes() const { return {data_, size_}; }

 private:
  static constexpr size_t kAlignment = 2u << 20;
  size_t size_;
  std::byte* data_;
};

}  // namespace attnd
