// SPDX-License-Identifier: Apache-2.0
//
// Calls that end early and sessions that change hands, on a device that finishes when told to:
// cancellation and deadlines before, during and after a launch; resuming; merged launches.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

#include "tests/integration/daemon.h"
#include "tests/integration/test_client.h"

namespace attnd {
namespace {

using Code = grpc::StatusCode;

class LifecycleTest : public ::testing::Test {
 protected:
  void SetUp() override {
    cache_ = client_.OpenCache();
    session_ = client_.NewSession();
    sequence_ = client_.NewSequence(session_, cache_);
  }
  void TearDown() override { platform_.CompleteAll(); }

  // One token for layer `layer` of the sequence.
  Batch OneToken(int layer, uint64_t step = 1, int64_t start = 0) {
    Batch batch(session_);
    batch.Add({.sequence = sequence_, .layer = layer, .step = step, .start = start});
    return batch;
  }
  // Fills the device with launches of another session, as many as it takes at a time (two), so that
  // what follows stays queued.
  std::vector<PendingAttend> Occupy(int64_t launched_before = 0) {
    std::vector<PendingAttend> pending;
    const TestSession other = client_.NewSession();
    for (int64_t i = launched_before; i < 2; ++i) {
      Batch batch(other);
      batch.Add({.sequence = client_.NewSequence(other, cache_)});
      pending.push_back(client_.StartAttend(batch.request()));
      platform_.WaitForLaunches(i + 1);
    }
    return pending;
  }
  int64_t Length(int layer) { return client_.Describe(session_, sequence_).layer_lengths(layer); }
  // Waits until `items` are queued; each turn is a call, not a pause.
  void WaitUntilQueued(int64_t items) {
    while (client_.Stats().queued_items() != items) {
    }
  }

  FakePlatform platform_{FakePlatform::Completion::kManual};
  InProcessDaemon daemon_{platform_};
  TestClient client_{daemon_.address()};
  v1::Id cache_, sequence_;
  TestSession session_;
};

TEST_F(LifecycleTest, AClientThatGoesBeforeTheLaunchHasWrittenNothing) {
  std::vector<PendingAttend> occupied = Occupy();
  TestClient doomed(daemon_.address());
  PendingAttend pending = doomed.StartAttend(OneToken(0).request());
  WaitUntilQueued(1);
  pending.context->TryCancel();
  EXPECT_EQ(pending.status.get().error_code(), Code::CANCELLED);
  WaitUntilQueued(0);
  platform_.CompleteAll();
  for (PendingAttend& other : occupied) EXPECT_TRUE(other.status.get().ok());
  EXPECT_EQ(Length(0), 0);
  client_.StateOf(session_);
}

TEST_F(LifecycleTest, AClientThatGoesDuringTheLaunchHasWrittenAndMayRetry) {
  PendingAttend pending = client_.StartAttend(OneToken(0).request());
  platform_.WaitForLaunches(1);
  pending.context->TryCancel();
  EXPECT_EQ(pending.status.get().error_code(), Code::CANCELLED);
  platform_.CompleteAll();
  const AttendReply retry = client_.Attend(OneToken(0).request());
  ASSERT_EQ(retry.response.results(0).status().code(), Code::OK);
  EXPECT_TRUE(retry.response.results(0).replayed());
  EXPECT_EQ(Length(0), 1);
  client_.StateOf(session_);
}

TEST_F(LifecycleTest, AClientThatGoesAfterTheLaunchCostsNothing) {
  platform_.CompleteAll();
  {
    TestClient gone(daemon_.address());
    PendingAttend pending = gone.StartAttend(OneToken(0).request());
    EXPECT_TRUE(pending.status.get().ok());
    pending.context->TryCancel();
  }
  EXPECT_EQ(Length(0), 1);
  client_.StateOf(session_);
}

TEST_F(LifecycleTest, ADeadlineThatIsPastWritesNothing) {
  PendingAttend late = client_.StartAttend(
      OneToken(0).request(), std::chrono::system_clock::now() - std::chrono::seconds(1));
  EXPECT_EQ(late.status.get().error_code(), Code::DEADLINE_EXCEEDED);
  EXPECT_EQ(Length(0), 0);
  EXPECT_EQ(platform_.launches(), 0);
}

TEST_F(LifecycleTest, ADeadlineThatComesInTheQueueWritesNothing) {
  std::vector<PendingAttend> occupied = Occupy();
  PendingAttend late = client_.StartAttend(
      OneToken(0).request(), std::chrono::system_clock::now() + std::chrono::milliseconds(50));
  // The daemon and the client's library watch the same instant: either may be the first to say so.
  const grpc::Status status = late.status.get();
  if (status.ok()) {
    EXPECT_EQ(late.response->results(0).status().code(), Code::DEADLINE_EXCEEDED);
  } else {
    EXPECT_EQ(status.error_code(), Code::DEADLINE_EXCEEDED);
  }
  WaitUntilQueued(0);
  platform_.CompleteAll();
  for (PendingAttend& other : occupied) EXPECT_TRUE(other.status.get().ok());
  EXPECT_EQ(Length(0), 0);
  client_.StateOf(session_);
}

TEST_F(LifecycleTest, ResumingAbortsWhatIsQueuedAndWaitsForWhatIsLaunched) {
  PendingAttend launched = client_.StartAttend(OneToken(0).request());
  platform_.WaitForLaunches(1);
  std::vector<PendingAttend> occupied = Occupy(/*launched_before=*/1);
  PendingAttend behind = client_.StartAttend(OneToken(0, 2, 1).request());
  WaitUntilQueued(1);

  v1::ResumeSessionRequest request;
  v1::ResumeSessionResponse response;
  request.set_token(session_.token);
  grpc::ClientContext context;
  std::promise<grpc::Status> resumed;
  client_.sessions->async()->ResumeSession(&context, &request, &response, [&](grpc::Status status) {
    resumed.set_value(std::move(status));
  });
  // What is queued ends at once, while the launched item still runs.
  EXPECT_TRUE(behind.status.get().ok());
  EXPECT_EQ(behind.response->results(0).status().code(), Code::ABORTED);
  std::future<grpc::Status> status = resumed.get_future();
  EXPECT_EQ(status.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  platform_.CompleteNext();
  ASSERT_TRUE(status.get().ok());
  EXPECT_TRUE(launched.status.get().ok());
  EXPECT_EQ(launched.response->results(0).status().code(), Code::OK);

  EXPECT_EQ(response.epoch(), session_.epoch + 1);
  EXPECT_NE(response.token(), session_.token);
  ASSERT_EQ(response.sequences_size(), 1);
  EXPECT_EQ(response.sequences(0).layer_lengths(0), 1);
  EXPECT_EQ(response.sequences(0).layer_steps(0), 1u);

  // The former client is out.
  platform_.CompleteAll();
  const AttendReply former = client_.Attend(OneToken(0, 2, 1).request());
  EXPECT_EQ(former.status.error_code(), Code::ABORTED);
  EXPECT_EQ(former.detail.reason(), v1::ErrorDetail::SUPERSEDED);
  session_.epoch = response.epoch();
  EXPECT_EQ(client_.Attend(OneToken(0, 2, 1).request()).response.results(0).status().code(),
            Code::OK);
  // The new epoch was used: the token that was sent is void.
  grpc::ClientContext again;
  EXPECT_EQ(client_.sessions->ResumeSession(&again, request, &response).error_code(),
            Code::NOT_FOUND);
}

TEST_F(LifecycleTest, ItemsOfTwoClientsShareALaunch) {
  std::vector<PendingAttend> occupied = Occupy();
  TestClient other(daemon_.address());
  const TestSession other_session = other.NewSession();
  Batch theirs(other_session);
  theirs.Add({.sequence = other.NewSequence(other_session, cache_)});
  PendingAttend a = client_.StartAttend(OneToken(0).request());
  PendingAttend b = other.StartAttend(theirs.request());
  WaitUntilQueued(2);
  platform_.ClearOps();
  platform_.CompleteAll();
  EXPECT_TRUE(a.status.get().ok());
  EXPECT_TRUE(b.status.get().ok());
  int launches = 0;
  for (const FakeStreamOp& op : platform_.ops()) {
    if (op.kind != FakeStreamOp::Kind::kLaunch) continue;
    ++launches;
    EXPECT_EQ(op.items.size(), 2u);
  }
  EXPECT_EQ(launches, 1);
}

TEST_F(LifecycleTest, TruncateAndFreeWaitForWhatIsAdmittedBefore) {
  PendingAttend launched = client_.StartAttend(OneToken(0).request());
  platform_.WaitForLaunches(1);
  grpc::ClientContext context;
  v1::FreeSequenceRequest request;
  v1::FreeSequenceResponse response;
  *request.mutable_session() = session_.id;
  request.set_epoch(session_.epoch);
  *request.mutable_sequence() = sequence_;
  std::promise<grpc::Status> done;
  client_.sequences->async()->FreeSequence(&context, &request, &response, [&](grpc::Status status) {
    done.set_value(std::move(status));
  });
  std::future<grpc::Status> freed = done.get_future();
  // A call behind it has been answered: it had its chance to jump the queue.
  client_.Stats();
  EXPECT_EQ(freed.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  platform_.CompleteNext();
  EXPECT_TRUE(freed.get().ok());
  EXPECT_TRUE(launched.status.get().ok());
  EXPECT_EQ(launched.response->results(0).status().code(), Code::OK);
  client_.StateOf(session_);
}

TEST_F(LifecycleTest, ClosingASessionFreesItsSequences) {
  platform_.CompleteAll();
  ASSERT_TRUE(client_.Attend(OneToken(0).request()).status.ok());
  grpc::ClientContext stale_context, context;
  v1::CloseSessionRequest request;
  v1::CloseSessionResponse response;
  *request.mutable_session() = session_.id;
  request.set_epoch(session_.epoch + 5);
  EXPECT_FALSE(client_.sessions->CloseSession(&stale_context, request, &response).ok());
  request.set_epoch(session_.epoch);
  EXPECT_TRUE(client_.sessions->CloseSession(&context, request, &response).ok());
  const v1::GetStatsResponse stats = client_.Stats();
  EXPECT_EQ(stats.sequences(), 0);
  EXPECT_EQ(stats.caches(0).pages_used(), 0);
  EXPECT_EQ(client_.Attend(OneToken(0).request()).status.error_code(), Code::NOT_FOUND);
}

}  // namespace
}  // namespace attnd
