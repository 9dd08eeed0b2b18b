// SPDX-License-Identifier: Apache-2.0
#include "kv_cache/device_pool.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "tests/unit/kv_cache/cache_fixture.h"

namespace attnd {
namespace {

class DevicePoolTest : public testing::Test {
 protected:
  PoolMemory memory_{16};
  DevicePool pool_{memory_.span()};
};

TEST_F(DevicePoolTest, StartsAsOneRun) {
  EXPECT_EQ(pool_.num_superblocks(), 16);
  EXPECT_EQ(pool_.free_superblocks(), 16);
  EXPECT_EQ(pool_.largest_free_run(), 16);
  EXPECT_TRUE(pool_.CheckIntegrity({}).ok());
}

TEST_F(DevicePoolTest, PartOfASuperblockStaysUnused) {
  EXPECT_EQ(DevicePool(memory_.span().first(5 * kSuperblockBytes.value() - 1)).num_superblocks(),
            4);
  EXPECT_EQ(DevicePool(memory_.span().first(0)).largest_free_run(), 0);
}

TEST_F(DevicePoolTest, TakesTheSmallestRunThatFitsTheLowestFirst) {
  const std::vector<SuperblockRun> runs = {*pool_.Allocate(4), *pool_.Allocate(1),
                                           *pool_.Allocate(2), *pool_.Allocate(1),
                                           *pool_.Allocate(2), *pool_.Allocate(6)};
  for (size_t i : {0u, 2u, 4u}) pool_.Free(runs[i]);  // holes of 4, 2 and 2
  EXPECT_EQ(pool_.Allocate(2), runs[2]);
  EXPECT_EQ(pool_.Allocate(1), (SuperblockRun{.first = 8, .count = 1}));
  EXPECT_EQ(pool_.Allocate(3), (SuperblockRun{.first = 0, .count = 3}));
}

TEST_F(DevicePoolTest, NothingWhereNoRunIsLongEnough) {
  const SuperblockRun first = *pool_.Allocate(8);
  ASSERT_TRUE(pool_.Allocate(1));
  pool_.Free(first);
  EXPECT_EQ(pool_.free_superblocks(), 15);
  EXPECT_EQ(pool_.Allocate(9), std::nullopt);
  EXPECT_EQ(pool_.largest_free_run(), 8);
}

TEST_F(DevicePoolTest, FreedRunsMergeWithBothNeighbours) {
  const SuperblockRun a = *pool_.Allocate(3), b = *pool_.Allocate(4), c = *pool_.Allocate(5);
  pool_.Free(a);
  pool_.Free(c);
  EXPECT_EQ(pool_.largest_free_run(), 9);
  pool_.Free(b);
  EXPECT_EQ(pool_.largest_free_run(), 16);
  EXPECT_TRUE(pool_.CheckIntegrity({}).ok());
}

TEST_F(DevicePoolTest, IntegrityNamesWhatIsLostOrOwnedTwice) {
  const SuperblockRun a = *pool_.Allocate(3), b = *pool_.Allocate(4);
  const std::vector<SuperblockRun> lost = {a}, twice = {a, b, b}, right = {b, a};
  EXPECT_NE(pool_.CheckIntegrity(lost).message().find("superblock 3 is lost"), std::string::npos);
  EXPECT_NE(pool_.CheckIntegrity(twice).message().find("superblock 3 is owned twice"),
            std::string::npos);
  EXPECT_TRUE(pool_.CheckIntegrity(right).ok());
}

TEST_F(DevicePoolTest, RandomUseKeepsTheRunsDisjointAndComplete) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  std::vector<SuperblockRun> held;
  for (int i = 0; i < 20000; ++i) {
    if (!held.empty() && random() % 2 == 0) {
      std::swap(held[random() % held.size()], held.back());
      pool_.Free(held.back());
      held.pop_back();
    } else if (const auto run = pool_.Allocate(static_cast<int64_t>(1 + random() % 5))) {
      held.push_back(*run);
    }
    const absl::Status status = pool_.CheckIntegrity(held);
    ASSERT_TRUE(status.ok()) << status;
  }
}

TEST(DevicePoolDeathTest, FreeingTwiceStopsTheProcess) {
  PoolMemory memory(4);
  DevicePool pool(memory.span());
  const SuperblockRun run = *pool.Allocate(2);
  pool.Free(run);
  EXPECT_DEATH(pool.Free(run), "freed twice");
  EXPECT_DEATH(pool.Free({.first = 3, .count = 2}), "outside the pool");
}

}  // namespace
}  // namespace attnd
