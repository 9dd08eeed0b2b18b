// SPDX-License-Identifier: Apache-2.0
#include "kv_cache/slot_table.h"

#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <vector>

namespace attnd {
namespace {

using Table = SlotTable<SequenceId, int>;

SequenceId Id(uint64_t boot, uint32_t slot, uint32_t generation) {
  return SequenceId(ObjectId{.boot = boot, .slot = slot, .generation = generation});
}

TEST(SlotTableTest, StaleIdFindsNothingAfterItsSlotIsReused) {
  Table table(/*boot=*/9, /*max_live=*/4);
  const SequenceId first = *table.Insert(std::make_unique<int>(1));
  EXPECT_EQ(*table.Erase(first), 1);
  const SequenceId second = *table.Insert(std::make_unique<int>(2));
  EXPECT_EQ(second.object.slot, first.object.slot);
  EXPECT_NE(second, first);
  EXPECT_EQ(table.Find(first), nullptr);
  EXPECT_EQ(*table.Find(second), 2);
  EXPECT_EQ(table.Erase(first), nullptr);
}

TEST(SlotTableTest, IdsOfAnotherBootFindNothing) {
  Table table(9, 4);
  const SequenceId id = *table.Insert(std::make_unique<int>(1));
  EXPECT_EQ(table.Find(Id(8, id.object.slot, id.object.generation)), nullptr);
  EXPECT_EQ(table.Find(Id(9, id.object.slot + 1, id.object.generation)), nullptr);
  EXPECT_EQ(table.Find(Id(9, UINT32_MAX, 1)), nullptr);
  EXPECT_EQ(table.Find(SequenceId()), nullptr);
}

TEST(SlotTableTest, DefaultIdFindsNothingInAFreeSlot) {
  Table table(0, 4);
  table.Erase(*table.Insert(std::make_unique<int>(1)));
  EXPECT_EQ(table.Find(SequenceId()), nullptr);
  EXPECT_EQ(table.Find(Id(0, 0, 1)), nullptr);
}

TEST(SlotTableTest, SlotRetiresBeforeItsGenerationWraps) {
  Table table(9, 4, /*max_generation=*/3);
  std::set<SequenceId> ids;
  for (int i = 0; i < 10; ++i) {
    const SequenceId id = *table.Insert(std::make_unique<int>(i));
    EXPECT_TRUE(ids.insert(id).second);
    EXPECT_EQ(id.object.slot, static_cast<uint32_t>(i / 3));
    EXPECT_LE(id.object.generation, 3u);
    EXPECT_GE(id.object.generation, 1u);
    table.Erase(id);
  }
}

TEST(SlotTableTest, RefusesBeyondTheMostThatMayLive) {
  Table table(9, 2);
  const SequenceId first = *table.Insert(std::make_unique<int>(1));
  ASSERT_TRUE(table.Insert(std::make_unique<int>(2)));
  EXPECT_TRUE(table.full());
  EXPECT_FALSE(table.Insert(std::make_unique<int>(3)));
  table.Erase(first);
  EXPECT_TRUE(table.Insert(std::make_unique<int>(3)));
  EXPECT_EQ(table.size(), 2);
}

TEST(SlotTableTest, VisitsLivingObjectsInTheOrderOfSlots) {
  Table table(9, 8);
  std::vector<SequenceId> ids;
  ids.reserve(5);
  for (int i = 0; i < 5; ++i) ids.push_back(*table.Insert(std::make_unique<int>(i)));
  table.Erase(ids[1]);
  table.Erase(ids[3]);
  table.Insert(std::make_unique<int>(9));  // takes slot 3, the last that was freed
  std::vector<int> seen;
  table.ForEach([&](SequenceId, int& value) { seen.push_back(value); });
  EXPECT_EQ(seen, (std::vector<int>{0, 2, 9, 4}));
}

TEST(SlotTableTest, ObjectsStayWhereTheyAre) {
  Table table(9, 10000);
  const SequenceId id = *table.Insert(std::make_unique<int>(1));
  const int* before = table.Find(id);
  for (int i = 0; i < 9999; ++i) ASSERT_TRUE(table.Insert(std::make_unique<int>(i)));
  EXPECT_EQ(table.Find(id), before);
}

}  // namespace
}  // namespace attnd
