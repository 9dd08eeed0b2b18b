// SPDX-License-Identifier: Apache-2.0
//
// Division by a number that is fixed for a launch: one multiplication and a shift on the device.
//
//   FastDivide pages = FastDivide::By(48);   // host
//   uint32_t page = pages.Quotient(token);   // device; exact for all dividends below 2^31
#pragma once

#include <bit>
#include <cstdint>

#if defined(__HIP__) || defined(__CUDACC__)
#define ATTND_HOST_DEVICE __host__ __device__
#else
#define ATTND_HOST_DEVICE
#endif

namespace attnd::gpu {

// Source: Granlund and Montgomery, "Division by invariant integers using multiplication", 1994;
// with 31-bit dividends the rounded-up reciprocal fits in 32 bits.
struct FastDivide {
  uint32_t divisor = 1;
  uint32_t reciprocal = 1u << 31;
  uint32_t shift = 31;

  // 1 <= divisor < 2^31.
  static constexpr FastDivide By(uint32_t divisor) {
    const auto bits = static_cast<uint32_t>(std::bit_width(divisor - 1));
    const uint64_t power = uint64_t{1} << (31 + bits);
    return {divisor, static_cast<uint32_t>((power + divisor - 1) / divisor), 31 + bits};
  }
  ATTND_HOST_DEVICE constexpr uint32_t Quotient(uint32_t dividend) const {
    return static_cast<uint32_t>((static_cast<uint64_t>(dividend) * reciprocal) >> shift);
  }
};

}  // namespace attnd::gpu
