// SPDX-License-Identifier: Apache-2.0
//
// Arithmetic on sizes that came from outside: an overflow is a value, never undefined behaviour.
//
//   std::optional<uint64_t> bytes = CheckedProduct({tokens, heads, dim, SizeOf(dtype)});
//   if (!bytes) return absl::InvalidArgumentError("the size of q overflows 64 bits");
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>

namespace attnd {

// The product of all factors, or nothing where it exceeds 64 bits. The empty product is 1; a zero
// factor gives 0 whatever the others are.
constexpr std::optional<uint64_t> CheckedProduct(std::initializer_list<uint64_t> factors) {
  uint64_t product = 1;
  for (uint64_t factor : factors) {
    if (factor == 0) return 0;
  }
  for (uint64_t factor : factors) {
    if (__builtin_mul_overflow(product, factor, &product)) return std::nullopt;
  }
  return product;
}

constexpr std::optional<uint64_t> CheckedSum(std::initializer_list<uint64_t> terms) {
  uint64_t sum = 0;
  for (uint64_t term : terms) {
    if (__builtin_add_overflow(sum, term, &sum)) return std::nullopt;
  }
  return sum;
}

}  // namespace attnd
