// SPDX-License-Identifier: Apache-2.0
#include "kv_cache/block_table.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace attnd {
namespace {

void AppendTo(BlockTable& table, uint32_t size) {
  while (table.size() < size) {
    const uint32_t next = static_cast<uint32_t>(table.size());
    table.Append(PageId(next), 100 * next);
  }
}

TEST(BlockTableTest, KeepsPagesAndOffsetsInOrder) {
  BlockTable table;
  AppendTo(table, 20);
  for (uint32_t i = 0; i < 20; ++i) {
    EXPECT_EQ(table.page(i), PageId(i));
    EXPECT_EQ(table.offset_bytes(i), 100 * i);
  }
  EXPECT_EQ(table.PopBack(), PageId(19));
  EXPECT_EQ(table.size(), 19u);
}

TEST(BlockTableTest, AppendingWithinTheCapacityDoesNotMoveOffsets) {
  BlockTable table;
  AppendTo(table, 5);
  const auto offsets = table.Publish(5);
  AppendTo(table, 8);
  EXPECT_EQ(table.Publish(8), offsets);
  EXPECT_EQ(offsets[7], 700u);
}

TEST(BlockTableTest, PublishedOffsetsSurviveGrowth) {
  BlockTable table;
  AppendTo(table, 3);
  const auto offsets = table.Publish(3);
  AppendTo(table, 1000);
  for (uint64_t i = 0; i < 3; ++i) EXPECT_EQ(offsets[static_cast<ptrdiff_t>(i)], 100 * i);
}

TEST(BlockTableTest, ReplacingAPublishedEntryLeavesTheReadersCopy) {
  BlockTable table;
  AppendTo(table, 3);
  const auto offsets = table.Publish(3);
  table.Replace(1, PageId(77), 7);
  EXPECT_EQ(offsets[1], 100u);
  EXPECT_EQ(table.offset_bytes(1), 7u);
  EXPECT_EQ(table.offset_bytes(2), 200u);
}

TEST(BlockTableTest, AppendingAfterPoppingAPublishedEntryLeavesTheReadersCopy) {
  BlockTable table;
  AppendTo(table, 3);
  const auto offsets = table.Publish(3);
  table.PopBack();
  table.Append(PageId(77), 7);
  EXPECT_EQ(offsets[2], 200u);
  EXPECT_EQ(table.Publish(3)[2], 7u);
}

TEST(BlockTableTest, WritesInPlaceOnceNoReaderIsLeft) {
  BlockTable table;
  AppendTo(table, 3);
  const uint64_t* before = table.Publish(3).get();
  table.ForgetPublished();
  table.Replace(1, PageId(77), 7);
  EXPECT_EQ(table.Publish(3).get(), before);
}

// Under ThreadSanitizer: readers need no lock.
TEST(BlockTableTest, ReadersRunBesideTheWriter) {
  BlockTable table;
  AppendTo(table, 4);
  for (int round = 0; round < 200; ++round) {
    const size_t size = table.size();
    const auto offsets = table.Publish(size);
    uint64_t expected = 0, sum = 0;
    for (size_t i = 0; i < size; ++i) expected += table.offset_bytes(i);
    std::thread reader([&] {
      for (size_t i = 0; i < size; ++i) sum += offsets[static_cast<ptrdiff_t>(i)];
    });
    AppendTo(table, static_cast<uint32_t>(size + 3));
    table.Replace(static_cast<size_t>(round) % size, PageId(9), static_cast<uint64_t>(round));
    table.PopBack();
    reader.join();
    EXPECT_EQ(sum, expected);
  }
}

}  // namespace
}  // namespace attnd
