// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/attention/visibility.h"
#include "kernels/hip/plan.h"

namespace attnd {
namespace {

using ::testing::HasSubstr;

constexpr gpu::Core kCores[] = {gpu::Core::kWmmaGfx11, gpu::Core::kMfma, gpu::Core::kNvMma};
constexpr int kMultiprocessors = 132;
constexpr int kKvHeads = 4;

// Never read: plans look at shapes only, so a pointer that would fault will do.
void* const kSomewhere = reinterpret_cast<void*>(16);

AttentionItem Item(int64_t query_len, int64_t kv_len, int64_t window_left = -1) {
  AttentionItem item;
  item.query_len = query_len;
  item.kv_len = kv_len;
  item.start_position = kv_len - query_len;
  item.q.data = kSomewhere;
  item.kv.page_size_tokens = 16;
  item.options.causal = true;
  item.options.window_left = window_left;
  return item;
}

AttentionParams Params(const std::vector<AttentionItem>& items) {
  AttentionParams params;
  params.key = {DType::kBF16, DType::kBF16, 128, 128, {}};
  params.num_query_heads = 4 * kKvHeads;
  params.num_kv_heads = kKvHeads;
  params.items = items;
  return params;
}

HipPlan PlanFor(const std::vector<AttentionItem>& items, gpu::Core core = gpu::Core::kNvMma) {
  HipPlan plan;
  EXPECT_EQ(MakeHipPlan(Params(items), core, kMultiprocessors, plan), absl::OkStatus());
  return plan;
}

// One split of some rows, as a kernel computes it.
struct Split {
  int32_t key_begin, key_end;
  int64_t partial_row;  // of its first row and KV head 0; -1: the output

  auto operator<=>(const Split&) const = default;
};
using RowsOfItem = std::tuple<int32_t, int32_t, int32_t>;  // item, row_begin, row_end
using Splits = std::map<RowsOfItem, std::vector<Split>>;

Splits SplitsOf(const HipPlan& plan) {
  Splits splits;
  for (const auto& tasks : plan.attends) {
    for (const gpu::AttendTask& task : tasks) {
      std::vector<Split>& of_rows = splits[{task.item, task.row_begin, task.row_end}];
      const int64_t rows = int64_t{task.row_end - task.row_begin} * kKvHeads;
      int64_t index = 0;
      int32_t begin = task.key_begin;
      do {
        const auto end =
            static_cast<int32_t>(std::min<int64_t>(task.key_end, int64_t{begin} + task.split_keys));
        of_rows.push_back(
            {begin, end, task.partial_row < 0 ? -1 : task.partial_row + index * rows});
        begin = end;
        ++index;
      } while (begin < task.key_end);
    }
  }
  for (auto& [rows, of_rows] : splits) std::ranges::sort(of_rows);
  return splits;
}

std::vector<AttentionItem> RandomItems(std::mt19937& random) {
  const auto up_to = [&](int64_t most) {
    return std::uniform_int_distribution<int64_t>(0, most)(random);
  };
  std::vector<AttentionItem> items;
  for (int64_t count = 1 + up_to(20); count > 0; --count) {
    const int64_t kv_len = int64_t{1} << up_to(16), query_len = 1 + up_to(up_to(1) * 300);
    items.push_back(Item(query_len, kv_len + query_len, up_to(3) == 0 ? up_to(kv_len) : -1));
  }
  return items;
}

TEST(HipPlanTest, EveryRowMeetsEachOfItsKeysOnce) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    const std::vector<AttentionItem> items = RandomItems(random);
    const gpu::Core core = kCores[round % std::size(kCores)];
    const HipPlan plan = PlanFor(items, core);
    std::vector<int64_t> rows(items.size());
    for (const auto& [at, splits] : SplitsOf(plan)) {
      const auto [item, row_begin, row_end] = at;
      rows[static_cast<size_t>(item)] += row_end - row_begin;
      const AttentionItem& of = items[static_cast<size_t>(item)];
      const KeyRange keys = VisibleHull(of.options, of.start_position + row_begin / 4,
                                        of.start_position + (row_end - 1) / 4, of.kv_len);
      EXPECT_EQ(splits.front().key_begin, keys.begin);
      EXPECT_EQ(splits.back().key_end, keys.end);
      for (size_t s = 1; s < splits.size(); ++s) {
        EXPECT_EQ(splits[s].key_begin, splits[s - 1].key_end);
        // Where a tile begins: tiles go on from split to split.
        EXPECT_EQ(splits[s].key_begin % 64, 0);
      }
    }
    for (size_t i = 0; i < items.size(); ++i) EXPECT_EQ(rows[i], 4 * items[i].query_len);
  }
}

TEST(HipPlanTest, PartialResultsAreWrittenOnceAndMergedOnce) {
  std::mt19937 random(8);
  for (int round = 0; round < 200; ++round) {
    const HipPlan plan = PlanFor(RandomItems(random), kCores[round % std::size(kCores)]);
    std::set<int64_t> written;
    std::map<RowsOfItem, std::set<int32_t>> ranges;
    std::vector<int32_t> tasks_of(plan.ranges.size());
    for (const auto& tasks : plan.attends) {
      for (const gpu::AttendTask& task : tasks) {
        ranges[{task.item, task.row_begin, task.row_end}].insert(task.range);
        if (task.range >= 0) ++tasks_of[static_cast<size_t>(task.range)];
      }
    }
    std::set<int32_t> merged;
    for (const auto& [at, splits] : SplitsOf(plan)) {
      const auto [item, row_begin, row_end] = at;
      for (const Split& split : splits) {
        if (split.partial_row < 0) {
          EXPECT_EQ(splits.size(), 1u);
          continue;
        }
        for (int64_t i = 0; i < int64_t{row_end - row_begin} * kKvHeads; ++i) {
          EXPECT_LT(split.partial_row + i, plan.partial_rows);
          EXPECT_TRUE(written.insert(split.partial_row + i).second);
        }
      }
      // All tasks of the rows say the same: that they share a range, or that there is one of them.
      ASSERT_EQ(ranges[at].size(), 1u);
      const int32_t range = *ranges[at].begin();
      if (range < 0) continue;
      EXPECT_TRUE(merged.insert(range).second);
      const gpu::MergeRange& of = plan.ranges[static_cast<size_t>(range)];
      EXPECT_EQ(of.first_partial, splits.front().partial_row);
      EXPECT_EQ(of.num_splits, static_cast<int32_t>(splits.size()));
      EXPECT_EQ(of.num_tasks, tasks_of[static_cast<size_t>(range)]);
      EXPECT_GT(of.num_tasks, 1);
    }
    EXPECT_EQ(merged.size(), plan.ranges.size());
  }
}

TEST(HipPlanTest, AnItemIsCutAsIfItWereAlone) {
  std::mt19937 random(9);
  const auto cuts = [](const HipPlan& plan, int32_t wanted) {
    std::set<std::tuple<int32_t, int32_t, int32_t, int32_t>> result;
    for (const auto& [at, splits] : SplitsOf(plan)) {
      const auto [item, row_begin, row_end] = at;
      for (const Split& split : splits) {
        if (item == wanted) result.insert({row_begin, row_end, split.key_begin, split.key_end});
      }
    }
    return result;
  };
  for (int round = 0; round < 100; ++round) {
    const std::vector<AttentionItem> items = RandomItems(random);
    const gpu::Core core = kCores[round % std::size(kCores)];
    const HipPlan together = PlanFor(items, core);
    for (size_t i = 0; i < items.size(); ++i) {
      EXPECT_EQ(cuts(together, static_cast<int32_t>(i)), cuts(PlanFor({items[i]}, core), 0));
    }
  }
}

TEST(HipPlanTest, LongestFirst) {
  std::mt19937 random(10);
  for (int round = 0; round < 50; ++round) {
    for (const auto& tasks : PlanFor(RandomItems(random)).attends) {
      EXPECT_TRUE(std::ranges::is_sorted(tasks, std::greater(), [](const gpu::AttendTask& task) {
        return task.key_end - task.key_begin;
      }));
    }
  }
}

TEST(HipPlanTest, SplitsHaveBlocksOfTheirOwnUntilTheGpuIsFull) {
  constexpr auto kDecode = static_cast<size_t>(gpu::Phase::kDecode);
  const HipPlan alone = PlanFor({Item(1, 8192)});
  EXPECT_GT(alone.attends[kDecode].size(), 8u);
  for (const gpu::AttendTask& task : alone.attends[kDecode]) {
    EXPECT_LE(task.key_end - task.key_begin, task.split_keys);
  }
  EXPECT_EQ(alone.ranges.size(), 1u);

  const HipPlan many = PlanFor(std::vector<AttentionItem>(256, Item(1, 8192)));
  EXPECT_EQ(many.attends[kDecode].size(), 256u);
  EXPECT_TRUE(many.ranges.empty());
}

TEST(HipPlanTest, APlanIsMadeAnew) {
  HipPlan plan = PlanFor(std::vector<AttentionItem>(40, Item(1, 8192)));
  const HipPlan fresh = PlanFor({Item(3, 700)});
  ASSERT_EQ(MakeHipPlan(Params({Item(3, 700)}), gpu::Core::kNvMma, kMultiprocessors, plan),
            absl::OkStatus());
  EXPECT_EQ(SplitsOf(plan), SplitsOf(fresh));
  EXPECT_EQ(plan.ranges.size(), fresh.ranges.size());
  EXPECT_EQ(plan.partial_rows, fresh.partial_rows);
}

TEST(HipPlanTest, PositionsBeyond32BitsAreRefused) {
  AttentionItem item = Item(1, 100);
  item.start_position = int64_t{1} << 31;
  HipPlan plan;
  const absl::Status status =
      MakeHipPlan(Params({Item(1, 5), item}), gpu::Core::kNvMma, kMultiprocessors, plan);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("item 1"));
  EXPECT_THAT(status.message(), HasSubstr("start_position=2147483648"));
}

}  // namespace
}  // namespace attnd
