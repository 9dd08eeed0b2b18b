// SPDX-License-Identifier: Apache-2.0
#include "kernels/base/dtype.h"

#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "gtest/gtest.h"

namespace attnd {
namespace {

// IEEE binary16 as a formula, independent of any bit trick.
double HalfValue(uint16_t bits) {
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  const int exponent = (bits >> 10) & 0x1f, mantissa = bits & 0x3ff;
  if (exponent == 0x1f) {
    return mantissa != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  }
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

TEST(DTypeTest, EveryHalfHasItsValueAndComesBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const double want = HalfValue(half);
    const float got = HalfToFloat(half);
    if (std::isnan(want)) {
      EXPECT_TRUE(std::isnan(got)) << bits;
      EXPECT_TRUE(std::isnan(HalfToFloat(FloatToHalf(got)))) << bits;
      continue;
    }
    ASSERT_EQ(got, want) << bits;
    ASSERT_EQ(std::signbit(got), (bits & 0x8000) != 0) << bits;
    ASSERT_EQ(FloatToHalf(got), half) << bits;
  }
}

TEST(DTypeTest, EveryBFloat16ComesBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = BFloat16ToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(BFloat16ToFloat(FloatToBFloat16(value)))) << bits;
    } else {
      ASSERT_EQ(FloatToBFloat16(value), bits);
    }
  }
}

// Around every half: the value itself, the midpoint to the next one, and the floats beside them.
TEST(DTypeTest, RoundsToTheNearestHalfAndTiesToEven) {
  for (uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const float low = HalfToFloat(static_cast<uint16_t>(bits));
    // Past the largest half, the next step would be 2^16.
    const float high = bits == 0x7bff ? 65536.0f : HalfToFloat(static_cast<uint16_t>(bits + 1));
    const float middle = (low + high) / 2;  // exact in fp32
    const auto even = static_cast<uint16_t>(bits % 2 == 0 ? bits : bits + 1);
    const auto next = static_cast<uint16_t>(bits + 1);
    ASSERT_EQ(FloatToHalf(middle), even) << bits;
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, 0.0f)), bits) << bits;
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, 1e30f)), next) << bits;
    ASSERT_EQ(FloatToHalf(-middle), even | 0x8000) << bits;
  }
  EXPECT_EQ(FloatToHalf(1e30f), 0x7c00);
  EXPECT_EQ(FloatToHalf(-std::numeric_limits<float>::infinity()), 0xfc00);
}

#if defined(__aarch64__) || defined(__FLT16_MAX__)
#ifdef __aarch64__
using CompilersHalf = __fp16;  // G++ has no _Float16 there before 13
#else
using CompilersHalf = _Float16;
#endif
TEST(DTypeTest, AgreesWithTheCompilersHalf) {
  std::mt19937 random(1);
  for (int i = 0; i < 2'000'000; ++i) {
    const auto value = std::bit_cast<float>(static_cast<uint32_t>(random()));
    if (std::isnan(value)) continue;
    const auto want = std::bit_cast<uint16_t>(static_cast<CompilersHalf>(value));
    ASSERT_EQ(FloatToHalf(value), want) << value;
  }
}
#endif

TEST(DTypeTest, RoundsToTheNearestBFloat16AndTiesToEven) {
  EXPECT_EQ(FloatToBFloat16(1.0f), 0x3f80);
  EXPECT_EQ(FloatToBFloat16(std::bit_cast<float>(0x3f808000u)), 0x3f80);  // tie, even below
  EXPECT_EQ(FloatToBFloat16(std::bit_cast<float>(0x3f818000u)), 0x3f82);  // tie, even above
  EXPECT_EQ(FloatToBFloat16(std::bit_cast<float>(0x3f808001u)), 0x3f81);
  EXPECT_EQ(FloatToBFloat16(std::numeric_limits<float>::max()), 0x7f80);  // rounds to infinity
  // A NaN whose payload lies in the bits that are cut off.
  EXPECT_TRUE(std::isnan(BFloat16ToFloat(FloatToBFloat16(std::bit_cast<float>(0x7f800001u)))));
}

TEST(DTypeTest, LoadsAndStoresAtAnyAddress) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    char bytes[17] = {};
    StoreFromFloat(dtype, bytes + 1, 2, 0.5f);
    EXPECT_EQ(LoadAsFloat(dtype, bytes + 1, 2), 0.5f) << Name(dtype);
    EXPECT_EQ(LoadAsFloat(dtype, bytes + 1, 1), 0.0f) << Name(dtype);
  }
}

}  // namespace
}  // namespace attnd
