// SPDX-License-Identifier: Apache-2.0
#include "kv_cache/slab_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace attnd {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Runs = std::vector<SuperblockRun>;

TEST(SlabChoiceTest, TheLeastRecentlyUsedThatIsLargeEnough) {
  EXPECT_THAT(ChooseSlabs({}, Runs{{0, 1}, {4, 3}, {8, 3}}, 3), ElementsAre(1));
  EXPECT_THAT(ChooseSlabs({}, Runs{{0, 1}, {4, 3}, {8, 3}}, 1), ElementsAre(0));
}

TEST(SlabChoiceTest, WhatIsFreeBesideASlabCounts) {
  EXPECT_THAT(ChooseSlabs(Runs{{5, 2}}, Runs{{0, 1}, {7, 1}}, 3), ElementsAre(1));
  EXPECT_THAT(ChooseSlabs(Runs{{1, 1}, {3, 1}}, Runs{{2, 1}}, 3), ElementsAre(0));
}

TEST(SlabChoiceTest, NeighboursAreEmptiedTogetherAndNoOthers) {
  // In the order of use: 9 is in no one's way, 2 and 3 and 4 make a piece of three.
  EXPECT_THAT(ChooseSlabs({}, Runs{{9, 1}, {2, 1}, {4, 1}, {3, 1}}, 3), ElementsAre(1, 2, 3));
  // Of a piece of four that the last one joins, only three are needed.
  EXPECT_THAT(ChooseSlabs({}, Runs{{2, 1}, {3, 1}, {5, 1}, {4, 1}}, 3).size(), 3u);
}

TEST(SlabChoiceTest, NothingWhereAllWouldNotSuffice) {
  EXPECT_THAT(ChooseSlabs(Runs{{0, 2}}, Runs{{4, 2}}, 3), IsEmpty());
  EXPECT_THAT(ChooseSlabs({}, {}, 1), IsEmpty());
}

TEST(SlabChoiceTest, CountsPiecesOfWhatIsFreeAndWhatCouldBe) {
  EXPECT_EQ(CountPieces(Runs{{0, 2}, {6, 1}}, Runs{{2, 1}, {9, 5}}, 3), 2);
  EXPECT_EQ(CountPieces(Runs{{0, 2}}, {}, 3), 0);
  EXPECT_EQ(CountPieces(Runs{{0, 7}}, {}, 3), 2);
}

}  // namespace
}  // namespace attnd
