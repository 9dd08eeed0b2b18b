// SPDX-License-Identifier: Apache-2.0
#include <limits>
#include <unordered_set>

#include "absl/hash/hash.h"
#include "gtest/gtest.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/clock.h"
#include "kernels/base/units.h"

namespace attnd {
namespace {

constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();

TEST(CheckedMathTest, ProductsOverflowToNothing) {
  EXPECT_EQ(CheckedProduct({}), 1u);
  EXPECT_EQ(CheckedProduct({3, 5, 7}), 105u);
  EXPECT_EQ(CheckedProduct({kMax, 1}), kMax);
  EXPECT_EQ(CheckedProduct({kMax, 2}), std::nullopt);
  EXPECT_EQ(CheckedProduct({uint64_t{1} << 32, uint64_t{1} << 32}), std::nullopt);
}

TEST(CheckedMathTest, AZeroFactorWinsOverOverflow) {
  EXPECT_EQ(CheckedProduct({kMax, kMax, 0}), 0u);
  EXPECT_EQ(CheckedProduct({0, kMax, kMax}), 0u);
}

TEST(CheckedMathTest, SumsOverflowToNothing) {
  EXPECT_EQ(CheckedSum({}), 0u);
  EXPECT_EQ(CheckedSum({kMax - 1, 1}), kMax);
  EXPECT_EQ(CheckedSum({kMax, 1}), std::nullopt);
}

TEST(UnitsTest, CountPagesRoundedUp) {
  EXPECT_EQ(PagesFor(TokenCount(0), TokenCount(16)), PageCount(0));
  EXPECT_EQ(PagesFor(TokenCount(1), TokenCount(16)), PageCount(1));
  EXPECT_EQ(PagesFor(TokenCount(16), TokenCount(16)), PageCount(1));
  EXPECT_EQ(PagesFor(TokenCount(33), TokenCount(16)), PageCount(3));
}

TEST(UnitsTest, CalculateCompareAndHash) {
  TokenCount tokens(3);
  tokens += TokenCount(4);
  EXPECT_EQ(tokens - TokenCount(2), TokenCount(5));
  EXPECT_LT(TokenCount(1), TokenCount(2));
  EXPECT_EQ((++tokens).value(), 8);
  std::unordered_set<PageId, absl::Hash<PageId>> pages = {PageId(1), PageId(2), PageId(1)};
  EXPECT_EQ(pages.size(), 2u);
  static_assert(!std::is_convertible_v<TokenCount, PageCount>);
  static_assert(!std::is_convertible_v<int64_t, TokenCount>);
}

TEST(ClockTest, NeverGoesBack) {
  MonotonicTime last = Clock::Real().Now();
  for (int i = 0; i < 1000; ++i) {
    const MonotonicTime now = Clock::Real().Now();
    ASSERT_GE(now, last);
    last = now;
  }
}

}  // namespace
}  // namespace attnd
