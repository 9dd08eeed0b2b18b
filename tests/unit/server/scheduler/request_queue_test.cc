// SPDX-License-Identifier: Apache-2.0
#include "server/scheduler/request_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>
#include <vector>

namespace attnd {
namespace {

using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

const MonotonicTime kStart{std::chrono::hours(1)};

SequenceId Sequence(uint32_t slot) {
  return SequenceId(ObjectId{.boot = 1, .slot = slot, .generation = 1});
}

class RequestQueueTest : public testing::Test {
 protected:
  // One item for each (sequence, layer); sequence 0 makes a dense one.
  ActiveRequest& Add(const std::vector<std::pair<uint32_t, uint32_t>>& items,
                     MonotonicTime deadline = kNoDeadline) {
    auto request = std::make_unique<Request>();
    for (const auto& [sequence, layer] : items) {
      WorkItem item;
      item.query_len = 1;
      if (sequence != 0) {
        item.access.emplace();
        item.access->sequence = Sequence(sequence);
        item.access->layer = LayerIndex(layer);
      }
      request->items.push_back(item);
    }
    request->outcomes.resize(items.size());
    request->deadline = deadline;
    return queue_.Add(static_cast<RequestId>(++last_id_), std::move(request));
  }
  // The orders of what the policy could see, walking from each head.
  std::vector<uint64_t> Visible() const {
    std::vector<uint64_t> orders;
    for (const QueuedItem* head : queue_.heads()) {
      for (const QueuedItem* item = head; item != nullptr; item = item->next) {
        orders.push_back(item->order);
      }
    }
    std::sort(orders.begin(), orders.end());
    return orders;
  }

  RequestQueue queue_;
  uint64_t last_id_ = 0;
};

TEST_F(RequestQueueTest, ShowsTheHeadOfEachSequence) {
  Add({{1, 0}, {2, 0}, {0, 0}, {1, 1}});
  EXPECT_EQ(queue_.heads().size(), 3u);
  EXPECT_THAT(Visible(), ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(queue_.num_queued(), 4);
}

TEST_F(RequestQueueTest, AnItemMayLeaveFromTheMiddle) {
  ActiveRequest& request = Add({{1, 0}, {1, 1}, {1, 2}});
  queue_.MarkFinished(request.nodes[1]);
  EXPECT_THAT(Visible(), ElementsAre(0, 2));
  queue_.MarkFinished(request.nodes[2]);
  queue_.MarkFinished(request.nodes[0]);
  EXPECT_THAT(queue_.heads(), IsEmpty());
  EXPECT_EQ(request.unfinished, 0);
  queue_.Remove(request);
  EXPECT_TRUE(queue_.empty());
}

TEST_F(RequestQueueTest, WhatIsBehindAnOperationIsHidden) {
  ActiveRequest& before = Add({{1, 0}});
  bool ran = false;
  queue_.AddOperation(Sequence(1), [&] { ran = true; });
  Add({{1, 1}, {2, 0}});
  EXPECT_THAT(Visible(), ElementsAre(0, 3));
  queue_.MarkLaunched(before.nodes[0]);
  EXPECT_THAT(Visible(), ElementsAre(3));
  EXPECT_FALSE(queue_.TakeOperation());
  queue_.MarkFinished(before.nodes[0]);
  auto operation = queue_.TakeOperation();
  ASSERT_TRUE(operation);
  operation();
  EXPECT_TRUE(ran);
  EXPECT_THAT(Visible(), ElementsAre(2, 3));
}

TEST_F(RequestQueueTest, AnItemLeavingUncoversTheOperationBehindIt) {
  ActiveRequest& first = Add({{1, 0}});
  queue_.AddOperation(Sequence(1), [] {});
  ActiveRequest& behind = Add({{1, 1}});
  queue_.MarkFinished(behind.nodes[0]);
  EXPECT_FALSE(queue_.TakeOperation());
  queue_.MarkFinished(first.nodes[0]);
  EXPECT_TRUE(queue_.TakeOperation());
  EXPECT_FALSE(queue_.TakeOperation());
  queue_.Remove(first);
  queue_.Remove(behind);
  EXPECT_TRUE(queue_.empty());
}

TEST_F(RequestQueueTest, AnOperationOnAnIdleSequenceRunsAtOnce) {
  queue_.AddOperation(Sequence(1), [] {});
  EXPECT_FALSE(queue_.empty());
  EXPECT_TRUE(queue_.TakeOperation());
  EXPECT_TRUE(queue_.empty());
}

TEST_F(RequestQueueTest, KnowsTheEarliestDeadline) {
  EXPECT_EQ(queue_.earliest_deadline(), kNoDeadline);
  Add({{1, 0}}, kStart + seconds(5));
  ActiveRequest& soon = Add({{2, 0}}, kStart + seconds(3));
  Add({{3, 0}});
  EXPECT_EQ(queue_.earliest_deadline(), kStart + seconds(3));
  queue_.MarkFinished(soon.nodes[0]);
  queue_.Remove(soon);
  queue_.RecomputeDeadline();
  EXPECT_EQ(queue_.earliest_deadline(), kStart + seconds(5));
}

TEST_F(RequestQueueTest, FindsRequestsWhileTheyLast) {
  ActiveRequest& request = Add({{1, 0}});
  const RequestId id = request.id;
  EXPECT_EQ(queue_.Find(id), &request);
  queue_.MarkLaunched(request.nodes[0]);
  queue_.MarkFinished(request.nodes[0]);
  queue_.Remove(request);
  EXPECT_EQ(queue_.Find(id), nullptr);
}

TEST_F(RequestQueueTest, FinishedOutcomesAreNotQueued) {
  auto request = std::make_unique<Request>();
  request->items.resize(2);
  request->outcomes.resize(2);
  request->outcomes[1].status = absl::ResourceExhaustedError("");
  ActiveRequest& active = queue_.Add(RequestId{1}, std::move(request));
  EXPECT_EQ(active.unfinished, 1);
  EXPECT_EQ(queue_.num_queued(), 1);
}

TEST_F(RequestQueueTest, OperationsLeftBehindAreFreed) {
  Add({{1, 0}});
  queue_.AddOperation(Sequence(1), [owned = std::make_unique<int>(1)] {});
}

TEST_F(RequestQueueTest, ItemsTwiceFinishedStopTheDaemon) {
  ActiveRequest& request = Add({{1, 0}, {1, 1}});
  queue_.MarkFinished(request.nodes[0]);
  EXPECT_DEATH(queue_.MarkFinished(request.nodes[0]), "finished twice");
}

}  // namespace
}  // namespace attnd
