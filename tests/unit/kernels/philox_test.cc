// SPDX-License-Identifier: Apache-2.0
#include "kernels/base/philox.h"

#include <cmath>

#include "gtest/gtest.h"

namespace attnd {
namespace {

using Draws = std::array<uint32_t, 4>;

// The philox4x32 10 rows of kat_vectors in Random123 (github.com/DEShawResearch/random123).
TEST(PhiloxTest, ReproducesThePublishedVectors) {
  EXPECT_EQ(Philox4x32(0, {0, 0, 0, 0}),
            (Draws{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}));
  EXPECT_EQ(Philox4x32(~uint64_t{0}, {~0u, ~0u, ~0u, ~0u}),
            (Draws{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}));
  EXPECT_EQ(Philox4x32(0x299f31d0'a4093822u, {0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}),
            (Draws{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}));
}

TEST(PhiloxTest, DropsAtTheGivenRate) {
  for (float probability : {0.1f, 0.5f, 0.9f}) {
    const Dropout dropout{.probability = probability, .seed = 42};
    int dropped = 0;
    constexpr int kDraws = 100'000;
    for (uint32_t i = 0; i < kDraws; ++i) {
      if (!DropoutKeeps(dropout, /*query_head=*/3, i / 500, i % 500)) ++dropped;
    }
    const double sigma = std::sqrt(kDraws * probability * (1 - probability));
    EXPECT_NEAR(dropped, kDraws * probability, 5 * sigma) << probability;
  }
}

TEST(PhiloxTest, EveryCoordinateMatters) {
  const Dropout dropout{.probability = 0.5f, .seed = 7, .subsequence = 1};
  Dropout other_seed = dropout, other_subsequence = dropout;
  other_seed.seed = 8;
  other_subsequence.subsequence = 2;
  const Draws draws = DropoutDraws(dropout, 1, 2, 3);
  EXPECT_NE(draws, DropoutDraws(other_seed, 1, 2, 3));
  EXPECT_NE(draws, DropoutDraws(other_subsequence, 1, 2, 3));
  EXPECT_NE(draws, DropoutDraws(dropout, 2, 2, 3));
  EXPECT_NE(draws, DropoutDraws(dropout, 1, 3, 3));
  EXPECT_NE(draws, DropoutDraws(dropout, 1, 2, 4));
}

}  // namespace
}  // namespace attnd
