// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/plan.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace attnd {
namespace {

constexpr CpuMachine kMachine{.caches = {.l1_bytes = 48 << 10, .l2_bytes = 2 << 20},
                              .num_threads = 2};

// Never read: plans look at shapes only, so a pointer that would fault will do.
void* const kSomewhere = reinterpret_cast<void*>(16);

AttentionItem Item(int64_t query_len, int64_t start, bool causal = true) {
  AttentionItem item;
  item.query_len = query_len;
  item.start_position = start;
  item.kv_len = start + query_len;
  item.q.data = item.new_k.data = item.new_v.data = kSomewhere;
  item.kv.page_size_tokens = 16;
  item.options.causal = causal;
  return item;
}

AttentionParams Params(const std::vector<AttentionItem>& items, int32_t query_heads = 8,
                       int32_t kv_heads = 2) {
  AttentionParams params;
  params.key = {DType::kF32, DType::kF16, 64, 64, {}};
  params.num_query_heads = query_heads;
  params.num_kv_heads = kv_heads;
  params.items = items;
  return params;
}

CpuPlan PlanFor(const std::vector<AttentionItem>& items, int num_threads = 2) {
  CpuPlan plan;
  const CpuMachine machine{kMachine.caches, num_threads};
  EXPECT_EQ(MakePlan(Params(items), machine, plan), absl::OkStatus());
  return plan;
}

// Where the keys of each row are split: (head, row) -> positions at which a task ends, but for the
// last, which is where the keys of its tile end.
using Cuts = std::map<std::pair<int32_t, int64_t>, std::set<int64_t>>;

Cuts CutsOf(const CpuPlan& plan, int32_t item) {
  Cuts cuts;
  for (const AttentionTask& task : plan.attends) {
    if (task.item != item) continue;
    for (int64_t row = task.row_begin; row < task.row_end; ++row) {
      cuts[{task.kv_head, row}].insert(task.keys.end);
    }
  }
  for (auto& [row, positions] : cuts) positions.erase(std::prev(positions.end()));
  return cuts;
}

std::vector<AttentionItem> Assortment() {
  std::vector<AttentionItem> items = {Item(1, 5000),        Item(1, 0),    Item(700, 0),
                                      Item(40, 9000),       Item(2, 1023), Item(3000, 4000),
                                      Item(1, 8191, false), Item(5, -2)};
  items.back().new_k.data = items.back().new_v.data = nullptr;
  items.back().kv_len = 3;
  items.push_back(Item(300, 2000));
  items.back().options.window_left = 100;
  return items;
}

// Every pair of a row and a key that it sees lies in exactly one task.
TEST(PlanTest, CoversEachVisiblePairOnce) {
  const std::vector<AttentionItem> items = Assortment();
  const CpuPlan plan = PlanFor(items);
  for (int32_t i = 0; i < static_cast<int32_t>(items.size()); ++i) {
    const AttentionItem& item = items[static_cast<size_t>(i)];
    for (int32_t head = 0; head < 2; ++head) {
      for (int64_t row = 0; row < 4 * item.query_len; row += 37) {
        const KeyRange range =
            VisibleRange(item.options, item.start_position + row / 4, item.kv_len);
        std::vector<KeyRange> pieces;
        for (const AttentionTask& task : plan.attends) {
          if (task.item == i && task.kv_head == head && task.row_begin <= row &&
              row < task.row_end) {
            pieces.push_back(task.keys);
          }
        }
        ASSERT_FALSE(pieces.empty());
        std::ranges::sort(pieces, {}, &KeyRange::begin);
        for (size_t p = 1; p < pieces.size(); ++p) {
          EXPECT_EQ(pieces[p].begin, pieces[p - 1].end);
          EXPECT_EQ(pieces[p].begin % kDecodeSplitKeys, 0);
        }
        EXPECT_TRUE((KeyRange{pieces.front().begin, pieces.back().end}.Contains(range)))
            << "item " << i << " row " << row;
      }
    }
  }
}

TEST(PlanTest, WhereKeysAreSplitDependsOnTheItemAlone) {
  const std::vector<AttentionItem> items = Assortment();
  const CpuPlan together = PlanFor(items);
  int64_t cuts = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    const Cuts want = CutsOf(together, static_cast<int32_t>(i));
    for (const auto& [row, positions] : want) cuts += static_cast<int64_t>(positions.size());
    for (int threads : {1, 2, 7, 64}) EXPECT_EQ(CutsOf(PlanFor({items[i]}, threads), 0), want) << i;
  }
  EXPECT_GT(cuts, 100);
}

TEST(PlanTest, KeepsManyThreadsBusy) {
  EXPECT_GE(PlanFor({Item(3000, 0)}, 16).attends.size(), 16 * kRowTilesPerThread);
  EXPECT_GT(PlanFor({Item(3000, 0)}, 16).attends.size(),
            PlanFor({Item(3000, 0)}, 1).attends.size());
}

TEST(PlanTest, PutsTheMostWorkFirst) {
  const CpuPlan plan = PlanFor(Assortment());
  const auto work = [](const AttentionTask& task) {
    return (task.row_end - task.row_begin) * (task.keys.end - task.keys.begin);
  };
  EXPECT_TRUE(std::ranges::is_sorted(plan.attends, std::greater<>(), work));
}

TEST(PlanTest, MergesEverySplitIntoSpaceOfItsOwn) {
  const CpuPlan plan = PlanFor(Assortment());
  std::map<int64_t, int64_t> written;  // first partial row -> rows
  for (const AttentionTask& task : plan.attends) {
    if (task.partial_row == kNoPartial) continue;
    EXPECT_TRUE(written.emplace(task.partial_row, task.row_end - task.row_begin).second);
  }
  int64_t next = 0;
  for (const auto& [begin, rows] : written) {
    EXPECT_EQ(begin, next);
    next = begin + rows;
  }
  EXPECT_EQ(next, plan.partial_rows);
  int64_t merged = 0;
  for (const MergeTask& task : plan.merges) {
    EXPECT_GE(task.num_splits, 2);
    merged += task.num_splits * (task.row_end - task.row_begin);
  }
  EXPECT_EQ(merged, plan.partial_rows);
}

TEST(PlanTest, AppendsEachNewTokenOnce) {
  const CpuPlan plan = PlanFor({Item(1, 5), Item(200, 10)});
  std::vector<int> appended(201, 0);
  for (const AppendTask& task : plan.appends) {
    for (int64_t t = task.token_begin; t < task.token_end; ++t) {
      ++appended[static_cast<size_t>(task.item == 0 ? 200 : t)];
    }
  }
  EXPECT_THAT(appended, testing::Each(1));
}

TEST(PlanTest, ReusesItsMemory) {
  const std::vector<AttentionItem> items = Assortment();
  CpuPlan plan = PlanFor(items);
  const void* attends = plan.attends.data();
  ASSERT_EQ(MakePlan(Params(items), kMachine, plan), absl::OkStatus());
  EXPECT_EQ(plan.attends.data(), attends);
  EXPECT_EQ(CutsOf(plan, 0), CutsOf(PlanFor(items), 0));
  EXPECT_EQ(plan.attends.size(), PlanFor(items).attends.size());
}

TEST(PlanTest, RefusesImpossibleShapes) {
  CpuPlan plan;
  const std::vector<AttentionItem> one = {Item(1, 0)};
  EXPECT_EQ(MakePlan(Params(one, 8, 3), kMachine, plan).code(), absl::StatusCode::kInvalidArgument);
  std::vector<AttentionItem> beyond = {Item(4, 10)};
  beyond[0].kv_len = 13;
  const absl::Status status = MakePlan(Params(beyond), kMachine, plan);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("writes [10, 14) of 13 keys"));
  std::vector<AttentionItem> half = {Item(4, 10)};
  half[0].new_v.data = nullptr;
  EXPECT_EQ(MakePlan(Params(half), kMachine, plan).code(), absl::StatusCode::kInvalidArgument);
}

TEST(TileShapeTest, FitsItsCaches) {
  for (int64_t l2 : {int64_t{256} << 10, int64_t{1} << 20, int64_t{2} << 20}) {
    for (int64_t dim : {32, 64, 128, 256}) {
      const TileShape shape = TileShapeFor({.l2_bytes = l2}, dim, dim);
      EXPECT_EQ(shape.row_tile % kRowTileUnit, 0);
      EXPECT_EQ(kDecodeSplitKeys % shape.key_tile, 0);
      EXPECT_EQ(kTileSplitKeys % shape.key_tile, 0);
      EXPECT_TRUE(shape.key_tile == 64 || shape.key_tile * 2 * dim * 4 <= l2 / 4);
      EXPECT_TRUE(shape.row_tile <= kMinRowTile || shape.row_tile * 2 * dim * 4 <= l2 / 2);
    }
  }
}

}  // namespace
}  // namespace attnd
