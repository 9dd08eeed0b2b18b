// SPDX-License-Identifier: Apache-2.0
//
// The scheduler's promises, each on a fake device whose launches end when the test says so.
#include "server/scheduler/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include "kv_cache/error_detail.h"
#include "tests/fakes/server_core.h"

namespace attnd {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// One launch at a time: what is submitted while it runs stays queued.
ServerCoreOptions OneAtATime() {
  ServerCoreOptions options{.completion = FakePlatform::Completion::kManual};
  options.scheduler.max_launches_in_flight = 1;
  options.scheduler.max_spin = {};
  return options;
}

// The number of items of each launch so far.
std::vector<size_t> LaunchSizes(const FakePlatform& platform) {
  std::vector<size_t> sizes;
  for (const FakeStreamOp& op : platform.ops()) {
    if (op.kind == FakeStreamOp::Kind::kLaunch) sizes.push_back(op.items.size());
  }
  return sizes;
}

TEST(SchedulerTest, RunsAnItemAndSaysWhatItDid) {
  ServerCore core;
  const SequenceId sequence = core.NewSequence();
  const Request request = core.Run({core.Write(sequence, 0, 1, 0, 5)});
  EXPECT_TRUE(request.outcomes[0].status.ok()) << request.outcomes[0].status;
  EXPECT_EQ(request.outcomes[0].layer_length, 5);
  EXPECT_FALSE(request.outcomes[0].replayed);

  const Request again = core.Run({core.Write(sequence, 0, 1, 0, 5)});
  EXPECT_TRUE(again.outcomes[0].status.ok());
  EXPECT_TRUE(again.outcomes[0].replayed);
  EXPECT_EQ(core.metrics.totals().tokens_written, 5u);
  EXPECT_EQ(core.metrics.totals().tokens_attended, 10u);
}

TEST(SchedulerTest, ItemsSucceedAndFailOneByOne) {
  ServerCore core;
  const SequenceId sequence = core.NewSequence();
  const Request request =
      core.Run({core.Write(sequence, 0, 1, 0, 4), core.Write(sequence, 1, 1, 7, 4),  // a hole
                core.Write(sequence, 2, 1, 0, 4)});
  EXPECT_TRUE(request.outcomes[0].status.ok());
  EXPECT_EQ(request.outcomes[1].status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(request.outcomes[2].status.ok());
}

TEST(SchedulerTest, MergesItemsOfTwoClientsIntoOneLaunch) {
  ServerCore core(OneAtATime());
  const SessionRef other = core.NewSession();
  const SequenceId a = core.NewSequence(), b = core.NewSequence(other);
  PendingRequest first = core.Submit({core.Dense(1)});
  core.platform.WaitForLaunches(1);
  PendingRequest of_a = core.Submit({core.Write(a, 0, 1, 0, 1)});
  PendingRequest of_b = core.Submit({core.Write(other, b, 0, 1, 0, 1)});
  core.Sync();
  core.platform.CompleteNext();
  core.platform.CompleteNext();
  EXPECT_TRUE(of_a.WaitForStatus().ok());
  EXPECT_TRUE(of_b.WaitForStatus().ok());
  EXPECT_THAT(LaunchSizes(core.platform), ElementsAre(1, 2));
  EXPECT_THAT(core.metrics.Serialize(), HasSubstr("attnd_batch_requests_sum 3"));
}

TEST(SchedulerTest, KeepsTheOrderOfASequenceAcrossLaunches) {
  ServerCore core(OneAtATime());
  const SequenceId sequence = core.NewSequence();
  PendingRequest blocker = core.Submit({core.Dense(1)});
  core.platform.WaitForLaunches(1);
  // Each of these would be a hole were it to run before the one before it.
  std::vector<PendingRequest> writes;
  writes.reserve(4);
  for (int i = 0; i < 4; ++i) {
    writes.push_back(core.Submit({core.Write(sequence, 0, i + 1, 2 * i, 2)}));
  }
  core.platform.CompleteAll();
  for (PendingRequest& write : writes) EXPECT_TRUE(write.WaitForStatus().ok());
  EXPECT_THAT(LaunchSizes(core.platform), ElementsAre(1, 1, 1, 1, 1));
}

TEST(SchedulerTest, SeveralLaunchesOfOneSequenceAreInFlight) {
  ServerCore core({.completion = FakePlatform::Completion::kManual});
  const SequenceId sequence = core.NewSequence();
  PendingRequest first = core.Submit({core.Write(sequence, 0, 1, 0, 2)});
  PendingRequest second = core.Submit({core.Write(sequence, 0, 2, 2, 2)});
  PendingRequest third = core.Submit({core.Write(sequence, 0, 3, 4, 2)});
  core.platform.WaitForLaunches(2);
  core.Sync();
  EXPECT_EQ(core.platform.launches(), 2);  // the depth
  EXPECT_EQ(core.scheduler->stats().queued_items, 1);
  EXPECT_EQ(core.scheduler->stats().launched_items, 2);
  core.platform.CompleteNext();
  EXPECT_EQ(first.Wait().outcomes[0].layer_length, 2);
  EXPECT_FALSE(second.done());
  core.platform.CompleteAll();
  EXPECT_EQ(third.Wait().outcomes[0].layer_length, 6);
}

TEST(SchedulerTest, DeadlineBeforeTheLaunchWritesNothing) {
  ServerCore core(OneAtATime());
  const SequenceId sequence = core.NewSequence();
  PendingRequest blocker = core.Submit({core.Dense(1)});
  core.platform.WaitForLaunches(1);
  PendingRequest late =
      core.Submit({core.Write(sequence, 0, 1, 0, 4)}, core.clock.Now() + milliseconds(5));
  PendingRequest patient =
      core.Submit({core.Write(sequence, 1, 1, 0, 4)}, core.clock.Now() + milliseconds(50));
  core.Advance(milliseconds(5));
  EXPECT_EQ(late.WaitForStatus().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(late.Wait().times.launched, late.Wait().times.done);
  EXPECT_FALSE(patient.done());
  core.platform.CompleteAll();
  EXPECT_TRUE(patient.WaitForStatus().ok());
  EXPECT_THAT(core.cache.Describe(core.session, sequence)->layer_lengths, ElementsAre(0, 4, 0, 0));
}

TEST(SchedulerTest, AnExpiredRequestKeepsItsLaunchedItems) {
  ServerCoreOptions options = OneAtATime();
  options.scheduler.max_batch_items = 1;
  ServerCore core(options);
  const SequenceId sequence = core.NewSequence();
  PendingRequest request =
      core.Submit({core.Write(sequence, 0, 1, 0, 4), core.Write(sequence, 1, 1, 0, 4)},
                  core.clock.Now() + milliseconds(5));
  core.platform.WaitForLaunches(1);
  core.Advance(milliseconds(10));
  EXPECT_FALSE(request.done());
  core.platform.CompleteNext();
  EXPECT_TRUE(request.WaitForStatus(0).ok());
  EXPECT_EQ(request.WaitForStatus(1).code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(SchedulerTest, CancelEndsQueuedItemsAndLetsLaunchedOnesRun) {
  ServerCore core(OneAtATime());
  const SequenceId sequence = core.NewSequence();
  PendingRequest launched = core.Submit({core.Write(sequence, 0, 1, 0, 4)});
  core.platform.WaitForLaunches(1);
  PendingRequest queued = core.Submit({core.Write(sequence, 0, 2, 4, 4)});
  core.scheduler->Cancel(launched.id);
  core.scheduler->Cancel(queued.id);
  core.scheduler->Cancel(queued.id);       // twice
  core.scheduler->Cancel(RequestId{999});  // unknown
  EXPECT_EQ(queued.WaitForStatus().code(), absl::StatusCode::kCancelled);
  EXPECT_FALSE(launched.done());
  core.platform.CompleteNext();
  EXPECT_TRUE(launched.WaitForStatus().ok());
  core.scheduler->Cancel(launched.id);  // finished
  core.WaitIdle();
  EXPECT_EQ(core.cache.Describe(core.session, sequence)->layer_lengths[0], 4);
  EXPECT_TRUE(core.cache.CheckIntegrity().ok());
}

TEST(SchedulerTest, CancelledItemsGiveTheirReservationBack) {
  ServerCore core(OneAtATime());
  const SequenceId sequence = core.NewSequence();
  PendingRequest blocker = core.Submit({core.Dense(1)});
  core.platform.WaitForLaunches(1);
  PendingRequest queued = core.Submit({core.Write(sequence, 0, 1, 0, 64)});
  EXPECT_GT(core.cache.Stats().caches[0].reserved.value(), 0);
  core.scheduler->Cancel(queued.id);
  queued.Wait();
  EXPECT_EQ(core.cache.Stats().caches[0].reserved.value(), 0);
}

TEST(SchedulerTest, WhenQuietComesBetweenWhatWasBeforeAndWhatIsAfter) {
  ServerCore core(OneAtATime());
  const SequenceId sequence = core.NewSequence(), other = core.NewSequence();
  PendingRequest before = core.Submit({core.Write(sequence, 0, 1, 0, 4)});
  core.platform.WaitForLaunches(1);
  PendingRequest queued = core.Submit({core.Write(sequence, 0, 2, 4, 4)});
  std::vector<std::string> order;
  core.scheduler->WhenQuiet(sequence, [&] {
    order.emplace_back("truncate");
    EXPECT_TRUE(core.cache.Truncate(core.session, sequence, TokenCount(2)).ok());
  });
  core.scheduler->WhenQuiet(sequence, [&] { order.emplace_back("second"); });
  PendingRequest after = core.Submit({core.Write(sequence, 0, 3, 2, 1)});
  PendingRequest unrelated = core.Submit({core.Write(other, 0, 1, 0, 1)});
  core.Sync();
  EXPECT_TRUE(order.empty());
  core.platform.CompleteNext();  // `before`; then `queued` and `unrelated` share a launch
  core.platform.WaitForLaunches(2);
  core.Sync();
  EXPECT_TRUE(order.empty());
  core.platform.CompleteNext();
  EXPECT_TRUE(unrelated.WaitForStatus().ok());
  core.platform.CompleteNext();
  EXPECT_EQ(queued.Wait().outcomes[0].layer_length, 8);
  EXPECT_EQ(after.Wait().outcomes[0].layer_length, 3);
  EXPECT_THAT(order, ElementsAre("truncate", "second"));
}

TEST(SchedulerTest, NothingOvertakesAWaitingOperation) {
  ServerCore core({.completion = FakePlatform::Completion::kManual});  // a launch slot stays free
  const SequenceId sequence = core.NewSequence();
  PendingRequest before = core.Submit({core.Write(sequence, 0, 1, 0, 4)});
  core.platform.WaitForLaunches(1);
  std::atomic<bool> ran = false;
  core.scheduler->WhenQuiet(sequence, [&] { ran = true; });
  PendingRequest after = core.Submit({core.Write(sequence, 1, 1, 0, 4)});
  core.Sync();
  EXPECT_FALSE(ran);
  EXPECT_EQ(core.platform.launches(), 1);
  core.platform.CompleteNext();
  core.platform.WaitForLaunches(2);
  EXPECT_TRUE(ran);
  core.platform.CompleteNext();
  EXPECT_TRUE(after.WaitForStatus().ok());
}

TEST(SchedulerTest, EvictSessionEndsQueuedItemsAndWaitsForLaunchedOnes) {
  ServerCore core(OneAtATime());
  const SessionRef other = core.NewSession();
  const SequenceId sequence = core.NewSequence(), others = core.NewSequence(other);
  PendingRequest launched = core.Submit({core.Write(sequence, 0, 1, 0, 4)});
  core.platform.WaitForLaunches(1);
  PendingRequest queued = core.Submit({core.Write(sequence, 0, 2, 4, 4)});
  PendingRequest kept = core.Submit({core.Write(other, others, 0, 1, 0, 4)});
  std::promise<void> evicted;
  std::atomic<bool> ran = false;
  core.scheduler->EvictSession(core.session.session, [&] {
    ran = true;
    EXPECT_TRUE(core.cache.CloseSession(core.session).ok());
    evicted.set_value();
  });
  const absl::Status superseded = queued.WaitForStatus();
  EXPECT_EQ(superseded.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(GetErrorDetail(superseded)->reason, ErrorReason::kSuperseded);
  // One that comes while the eviction waits would prolong it.
  PendingRequest during = core.Submit({core.Write(sequence, 0, 3, 4, 4)});
  EXPECT_EQ(during.WaitForStatus().code(), absl::StatusCode::kAborted);
  EXPECT_FALSE(ran);
  EXPECT_FALSE(launched.done());
  core.platform.CompleteNext();
  evicted.get_future().wait();
  EXPECT_TRUE(launched.WaitForStatus().ok());
  core.platform.CompleteAll();
  EXPECT_TRUE(kept.WaitForStatus().ok());
  EXPECT_TRUE(core.cache.CheckIntegrity().ok());
}

TEST(SchedulerTest, AnEndedLeaseClosesItsSessionOnceNothingOfItIsLaunched) {
  ServerCoreOptions options = OneAtATime();
  options.lease = std::chrono::seconds(10);
  ServerCore core(options);
  const SequenceId sequence = core.NewSequence();
  PendingRequest launched = core.Submit({core.Write(sequence, 0, 1, 0, 4)});
  core.platform.WaitForLaunches(1);
  core.Advance(std::chrono::seconds(11));
  EXPECT_EQ(core.cache.Stats().num_sessions, 1);
  core.platform.CompleteNext();
  EXPECT_TRUE(launched.WaitForStatus().ok());
  core.WaitIdle();
  EXPECT_EQ(core.cache.Stats().num_sessions, 0);
  EXPECT_EQ(core.cache.Stats().num_sequences, 0);
  EXPECT_THAT(core.metrics.Serialize(), HasSubstr("attnd_leases_expired_total 1"));
}

TEST(SchedulerTest, WhenIdleComesAfterEverything) {
  ServerCore core(OneAtATime());
  const SequenceId sequence = core.NewSequence();
  PendingRequest first = core.Submit({core.Write(sequence, 0, 1, 0, 4)});
  PendingRequest second = core.Submit({core.Write(sequence, 0, 2, 4, 4)});
  std::promise<void> idle;
  std::atomic<bool> is_idle = false;
  core.scheduler->WhenIdle([&] {
    is_idle = true;
    EXPECT_TRUE(second.done());
    idle.set_value();
  });
  core.platform.WaitForLaunches(1);
  core.Sync();
  EXPECT_FALSE(is_idle);
  core.platform.CompleteNext();
  core.platform.WaitForLaunches(2);
  core.Sync();
  EXPECT_FALSE(is_idle);
  core.platform.CompleteNext();
  idle.get_future().wait();
}

TEST(SchedulerTest, DestructionCancelsTheQueueWaitsForLaunchesAndRunsWhatIsDue) {
  ServerCore core(OneAtATime());
  const SessionRef other = core.NewSession();
  const SequenceId sequence = core.NewSequence(), others = core.NewSequence(other);
  PendingRequest launched = core.Submit({core.Write(sequence, 0, 1, 0, 4)});
  core.platform.WaitForLaunches(1);
  PendingRequest queued = core.Submit({core.Write(other, others, 0, 1, 0, 4)});
  bool quiet = false, evicted = false, idle = false;
  core.scheduler->WhenQuiet(sequence, [&] { quiet = true; });
  core.scheduler->EvictSession(core.session.session, [&] { evicted = true; });
  core.scheduler->WhenIdle([&] { idle = true; });
  std::thread completer([&] {
    EXPECT_EQ(queued.WaitForStatus().code(), absl::StatusCode::kCancelled);
    core.platform.CompleteNext();
  });
  core.scheduler.reset();
  EXPECT_TRUE(quiet && evicted && idle);
  EXPECT_TRUE(launched.WaitForStatus().ok());
  completer.join();
}

TEST(SchedulerTest, AFailedLaunchFencesTheDevice) {
  ServerCore core;
  const SequenceId sequence = core.NewSequence();
  EXPECT_TRUE(core.scheduler->device_status().ok());
  core.platform.FailLaunch(absl::InternalError("illegal address"));
  const absl::Status failed =
      core.Submit({core.Write(sequence, 0, 1, 0, 4), core.Dense(1)}).WaitForStatus(1);
  EXPECT_EQ(failed.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(failed.message(), "device \"fake\" failed: illegal address");
  // Nothing is launched again, not even on a device that would work.
  core.platform.FailLaunch(absl::OkStatus());
  EXPECT_EQ(core.Submit({core.Dense(1)}).WaitForStatus(), failed);
  const absl::Status lost = core.Submit({core.Write(sequence, 0, 2, 4, 1)}).WaitForStatus();
  EXPECT_EQ(lost.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(core.scheduler->device_status(), failed);
  EXPECT_TRUE(LaunchSizes(core.platform).empty());
}

TEST(SchedulerTest, AFailedEventTakesItsOwnAndAllLaterLaunchesWithIt) {
  ServerCore core({.completion = FakePlatform::Completion::kManual});
  PendingRequest good = core.Submit({core.Dense(1)});
  core.platform.WaitForLaunches(1);
  PendingRequest bad = core.Submit({core.Dense(1)});
  core.platform.WaitForLaunches(2);
  core.platform.CompleteNext();
  EXPECT_TRUE(good.WaitForStatus().ok());
  PendingRequest behind = core.Submit({core.Dense(1)});
  core.platform.WaitForLaunches(3);
  PendingRequest queued = core.Submit({core.Dense(1)});
  core.platform.CompleteNext(absl::InternalError("hung"));
  EXPECT_EQ(bad.WaitForStatus().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(queued.WaitForStatus().code(), absl::StatusCode::kInternal);
  core.platform.CompleteNext();
  EXPECT_EQ(behind.WaitForStatus().code(), absl::StatusCode::kInternal);
}

TEST(SchedulerTest, FinishedOutcomesAreKeptAndNotExecuted) {
  ServerCore core;
  const SequenceId sequence = core.NewSequence();
  auto request = core.Make({core.Write(sequence, 0, 1, 0, 4), core.Write(sequence, 1, 1, 0, 4)});
  request->outcomes.resize(2);
  request->outcomes[0].status = absl::ResourceExhaustedError("no pages");
  PendingRequest pending = core.Submit(std::move(request));
  const Request& answer = pending.Wait();
  EXPECT_EQ(answer.outcomes[0].status.message(), "no pages");
  EXPECT_TRUE(answer.outcomes[1].status.ok());
  EXPECT_THAT(core.cache.Describe(core.session, sequence)->layer_lengths, ElementsAre(0, 4, 0, 0));

  auto refused = core.Make({core.Dense(1)});
  refused->outcomes.resize(1);
  refused->outcomes[0].status = absl::ResourceExhaustedError("no pages");
  EXPECT_FALSE(core.Submit(std::move(refused)).WaitForStatus().ok());
}

TEST(SchedulerTest, StagesAreCutFromTheClock) {
  ServerCore core(OneAtATime());
  PendingRequest blocker = core.Submit({core.Dense(1)});
  core.platform.WaitForLaunches(1);
  PendingRequest request = core.Submit({core.Dense(1)});
  core.Advance(milliseconds(3));
  core.platform.CompleteNext();
  core.platform.WaitForLaunches(2);
  core.Advance(milliseconds(4));
  core.platform.CompleteNext();
  const RequestTimes& times = request.Wait().times;
  EXPECT_EQ(times.launched - times.admitted, milliseconds(3));
  EXPECT_EQ(times.done - times.launched, milliseconds(4));
  EXPECT_DOUBLE_EQ(core.metrics.totals().kernel_seconds, 3e-3 + 4e-3);
}

TEST(SchedulerTest, LingersForCompanyUntilTheBatchIsFullOrTimeIsUp) {
  ServerCoreOptions options;
  options.scheduler.max_linger = milliseconds(10);
  options.scheduler.max_batch_items = 3;
  ServerCore core(options);
  PendingRequest a = core.Submit({core.Dense(1)});
  PendingRequest b = core.Submit({core.Dense(1)});
  core.Sync();
  EXPECT_EQ(core.platform.launches(), 0);
  PendingRequest c = core.Submit({core.Dense(1)});
  EXPECT_TRUE(c.WaitForStatus().ok());
  EXPECT_THAT(LaunchSizes(core.platform), ElementsAre(3));
  PendingRequest d = core.Submit({core.Dense(1)});
  core.Sync();
  EXPECT_FALSE(d.done());
  core.Advance(milliseconds(10));
  EXPECT_TRUE(d.WaitForStatus().ok());
}

TEST(SchedulerTest, CallbacksMayUseTheScheduler) {
  ServerCore core;
  const SequenceId sequence = core.NewSequence();
  std::promise<absl::Status> second;
  auto request = core.Make({core.Write(sequence, 0, 1, 0, 4)});
  request->done = [&](std::unique_ptr<Request>) {
    auto next = core.Make({core.Write(sequence, 0, 2, 4, 4)});
    next->done = [&](std::unique_ptr<Request> r) { second.set_value(r->outcomes[0].status); };
    core.scheduler->Submit(std::move(next));
  };
  core.scheduler->Submit(std::move(request));
  EXPECT_TRUE(second.get_future().get().ok());
}

}  // namespace
}  // namespace attnd
