// SPDX-License-Identifier: Apache-2.0
//
// The batch policy against its promises, on queues made by hand and on random ones.
//
//   batch_policy_test --gtest_filter=*Random*   prints its seed; ATTND_TEST_SEED=n takes it back
#include "server/scheduler/batch_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

namespace attnd {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

const MonotonicTime kStart{std::chrono::hours(1)};

// Queues of sequences, as RequestQueue keeps them. Sequence 0 is the dense items.
class Queues {
 public:
  const QueuedItem& Add(int sequence, int32_t layer, int64_t tokens = 1,
                        MonotonicTime admitted = kStart, MonotonicTime deadline = kNoDeadline) {
    auto item = std::make_unique<QueuedItem>();
    item->order = next_order_++;
    item->layer = sequence == 0 ? QueuedItem::kDense : layer;
    item->tokens = tokens;
    item->admitted = admitted;
    item->deadline = deadline;
    std::deque<std::unique_ptr<QueuedItem>>& queue = queues_[sequence];
    if (!queue.empty()) queue.back()->next = item.get();
    queue.push_back(std::move(item));
    return *queue.back();
  }

  std::vector<const QueuedItem*> Heads() const {
    std::vector<const QueuedItem*> heads;
    for (const auto& [sequence, queue] : queues_) heads.push_back(queue.front().get());
    return heads;
  }

  void Remove(const QueuedItem* item) {
    for (auto it = queues_.begin(); it != queues_.end(); ++it) {
      auto& queue = it->second;
      for (size_t i = 0; i < queue.size(); ++i) {
        if (queue[i].get() != item) continue;
        if (i > 0) queue[i - 1]->next = queue[i]->next;
        queue.erase(queue.begin() + static_cast<ptrdiff_t>(i));
        if (queue.empty()) queues_.erase(it);
        return;
      }
    }
    FAIL() << "not queued";
  }

  const std::map<int, std::deque<std::unique_ptr<QueuedItem>>>& queues() const { return queues_; }
  bool empty() const { return queues_.empty(); }

 private:
  uint64_t next_order_ = 0;
  std::map<int, std::deque<std::unique_ptr<QueuedItem>>> queues_;
};

std::vector<uint64_t> Orders(const std::vector<const QueuedItem*>& batch) {
  std::vector<uint64_t> orders;
  orders.reserve(batch.size());
  for (const QueuedItem* item : batch) orders.push_back(item->order);
  return orders;
}

std::vector<uint64_t> Decide(const Queues& queues, const BatchLimits& limits) {
  BatchScratch scratch;
  DecideBatch(queues.Heads(), kStart, limits, scratch);
  return Orders(scratch.batch);
}

TEST(BatchPolicyTest, AnEmptyQueueWaitsForever) {
  BatchScratch scratch;
  const BatchDecision decision = DecideBatch({}, kStart, {}, scratch);
  EXPECT_FALSE(decision.launch);
  EXPECT_EQ(decision.wake_at, kNoDeadline);
  EXPECT_THAT(scratch.batch, IsEmpty());
}

TEST(BatchPolicyTest, TakesDifferentLayersOfASequenceButEachOnce) {
  Queues queues;
  queues.Add(1, 0);  // 0
  queues.Add(1, 1);  // 1
  queues.Add(1, 0);  // 2: its layer is taken, so it and what follows wait
  queues.Add(1, 2);  // 3
  queues.Add(2, 0);  // 4
  EXPECT_THAT(Decide(queues, {}), ElementsAre(0, 1, 4));
}

TEST(BatchPolicyTest, LayersMayComeInAnyOrder) {
  Queues queues;
  queues.Add(1, 3);  // 0
  queues.Add(1, 1);  // 1
  queues.Add(1, 2);  // 2
  queues.Add(1, 1);  // 3
  EXPECT_THAT(Decide(queues, {}), ElementsAre(0, 1, 2));
}

TEST(BatchPolicyTest, DenseItemsWaitForNobody) {
  Queues queues;
  queues.Add(0, 0, 5);  // 0
  queues.Add(0, 0, 9);  // 1: does not fit
  queues.Add(0, 0, 5);  // 2
  EXPECT_THAT(Decide(queues, {.max_items = 8, .max_tokens = 10}), ElementsAre(0, 2));
}

TEST(BatchPolicyTest, ASkippedItemHoldsUpItsSequence) {
  Queues queues;
  queues.Add(1, 0, 6);  // 0
  queues.Add(2, 0, 6);  // 1: does not fit
  queues.Add(2, 1, 1);  // 2: would, but comes after it
  queues.Add(3, 0, 4);  // 3
  EXPECT_THAT(Decide(queues, {.max_items = 8, .max_tokens = 10}), ElementsAre(0, 3));
}

TEST(BatchPolicyTest, AnOversizeItemGoesAlone) {
  Queues queues;
  queues.Add(1, 0, 100);
  queues.Add(2, 0, 1);
  EXPECT_THAT(Decide(queues, {.max_items = 8, .max_tokens = 10}), ElementsAre(0));
}

TEST(BatchPolicyTest, StopsAtTheItemLimit) {
  Queues queues;
  for (int i = 1; i <= 9; ++i) queues.Add(i, 0);
  EXPECT_THAT(Decide(queues, {.max_items = 4}), ElementsAre(0, 1, 2, 3));
}

TEST(BatchPolicyTest, LingersUntilTheOldestHasWaitedLongEnough) {
  Queues queues;
  queues.Add(1, 0, 1, kStart);
  queues.Add(2, 0, 1, kStart + milliseconds(3));
  const BatchLimits limits{.max_items = 8, .max_tokens = 10, .max_linger = milliseconds(5)};
  BatchScratch scratch;
  BatchDecision decision = DecideBatch(queues.Heads(), kStart + milliseconds(3), limits, scratch);
  EXPECT_FALSE(decision.launch);
  EXPECT_EQ(decision.wake_at, kStart + milliseconds(5));
  EXPECT_TRUE(DecideBatch(queues.Heads(), decision.wake_at, limits, scratch).launch);
}

TEST(BatchPolicyTest, DoesNotLingerWhereItBringsNothingOrCostsADeadline) {
  const BatchLimits limits{.max_items = 2, .max_tokens = 10, .max_linger = milliseconds(5)};
  BatchScratch scratch;
  Queues full;
  full.Add(1, 0);
  full.Add(2, 0);
  EXPECT_TRUE(DecideBatch(full.Heads(), kStart, limits, scratch).launch);
  Queues crowded;
  crowded.Add(1, 0, 6);
  crowded.Add(2, 0, 6);
  EXPECT_TRUE(DecideBatch(crowded.Heads(), kStart, limits, scratch).launch);
  Queues urgent;
  urgent.Add(1, 0, 1, kStart, kStart + milliseconds(4));
  EXPECT_TRUE(DecideBatch(urgent.Heads(), kStart, limits, scratch).launch);
  Queues alone;
  alone.Add(1, 0, 1, kStart, kStart + milliseconds(6));
  EXPECT_FALSE(DecideBatch(alone.Heads(), kStart, limits, scratch).launch);
}

TEST(BatchPolicyTest, ScratchStopsGrowing) {
  Queues queues;
  for (int i = 1; i <= 64; ++i) {
    for (int layer = 0; layer < 4; ++layer) queues.Add(i, layer);
  }
  const std::vector<const QueuedItem*> heads = queues.Heads();
  BatchScratch scratch;
  DecideBatch(heads, kStart, {}, scratch);
  const auto* heap = scratch.heap.data();
  const auto* batch = scratch.batch.data();
  for (int i = 0; i < 100; ++i) DecideBatch(heads, kStart, {}, scratch);
  EXPECT_EQ(scratch.heap.data(), heap);
  EXPECT_EQ(scratch.batch.data(), batch);
}

// Everything that must be true of a batch, whatever the queue.
void CheckBatch(const Queues& queues, const BatchLimits& limits,
                const std::vector<const QueuedItem*>& batch) {
  std::set<uint64_t> chosen;
  int64_t tokens = 0;
  for (const QueuedItem* item : batch) {
    EXPECT_TRUE(chosen.empty() || item->order > *chosen.rbegin()) << "not in order of admission";
    chosen.insert(item->order);
    tokens += item->tokens;
  }
  EXPECT_LE(static_cast<int64_t>(batch.size()), limits.max_items);
  EXPECT_TRUE(tokens <= limits.max_tokens || batch.size() == 1);
  const bool full =
      static_cast<int64_t>(batch.size()) == limits.max_items || tokens >= limits.max_tokens;

  uint64_t oldest = ~0ull;
  for (const auto& [sequence, queue] : queues.queues()) {
    oldest = std::min(oldest, queue.front()->order);
    std::set<int32_t> layers;
    bool blocked = false;
    for (const auto& item : queue) {
      const bool in_batch = chosen.contains(item->order);
      if (sequence == 0) {
        EXPECT_TRUE(in_batch || full || tokens + item->tokens > limits.max_tokens) << "left out";
        continue;
      }
      EXPECT_FALSE(in_batch && blocked) << "overtook an earlier item of its sequence";
      if (in_batch) {
        EXPECT_TRUE(layers.insert(item->layer).second) << "two items of one (sequence, layer)";
        continue;
      }
      // The first that stays behind does so for a reason. It was looked at before later items took
      // what was left of the budget, so the budget after them is less still.
      if (!blocked && !layers.contains(item->layer)) {
        EXPECT_TRUE(full || tokens + item->tokens > limits.max_tokens) << "left out";
      }
      blocked = true;
    }
  }
  ASSERT_FALSE(batch.empty());
  EXPECT_EQ(batch.front()->order, oldest) << "the oldest starves";
}

TEST(BatchPolicyTest, RandomQueuesKeepEveryPromise) {
  const char* given = std::getenv("ATTND_TEST_SEED");
  const uint64_t seed =
      given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  SCOPED_TRACE(testing::Message() << "ATTND_TEST_SEED=" << seed);
  std::mt19937_64 random(seed);
  const auto draw = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  for (int round = 0; round < 300; ++round) {
    const BatchLimits limits{.max_items = draw(1, 12), .max_tokens = draw(1, 40)};
    const int num_sequences = static_cast<int>(draw(1, 8));
    Queues queues;
    BatchScratch scratch, other_scratch;
    int64_t to_add = draw(1, 80);
    while (to_add > 0 || !queues.empty()) {
      for (int64_t i = draw(0, 12); i > 0 && to_add > 0; --i, --to_add) {
        queues.Add(static_cast<int>(draw(0, num_sequences)), static_cast<int32_t>(draw(0, 5)),
                   draw(1, draw(0, 9) == 0 ? 60 : 8));
      }
      if (queues.empty()) continue;
      std::vector<const QueuedItem*> heads = queues.Heads();
      ASSERT_TRUE(DecideBatch(heads, kStart, limits, scratch).launch);
      CheckBatch(queues, limits, scratch.batch);
      // Pure: neither the order in which heads are listed nor what was decided before matters.
      std::shuffle(heads.begin(), heads.end(), random);
      DecideBatch(heads, kStart, limits, other_scratch);
      EXPECT_EQ(Orders(scratch.batch), Orders(other_scratch.batch));
      if (testing::Test::HasFailure()) return;
      for (const QueuedItem* item : scratch.batch) queues.Remove(item);
    }
  }
}

}  // namespace
}  // namespace attnd
