// SPDX-License-Identifier: Apache-2.0
#include "server/admission/admission.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <latch>
#include <thread>
#include <vector>

#include "kv_cache/error_detail.h"
#include "tests/fakes/server_core.h"

namespace attnd {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class AdmissionTest : public testing::Test {
 protected:
  AdmissionTest() : core_(Options()) {}
  ~AdmissionTest() override { core_.platform.CompleteAll(); }

  static ServerCoreOptions Options() {
    ServerCoreOptions options{.completion = FakePlatform::Completion::kManual};
    options.scheduler.max_launches_in_flight = 1;
    return options;
  }
  std::unique_ptr<Admission> Make(const Admission::Options& options) {
    return std::make_unique<Admission>(core_.cache, *core_.scheduler, core_.metrics, core_.clock,
                                       options);
  }
  // Admits a request that keeps its answer until the test lets go of it.
  absl::StatusOr<PendingRequest> Admit(Admission& admission, std::vector<WorkItem> items,
                                       MonotonicTime deadline = kNoDeadline,
                                       TenantIndex tenant = {}) {
    auto request = std::make_unique<Request>();
    request->tenant = tenant;
    request->items = std::move(items);
    request->deadline = deadline;
    request->times.received = core_.clock.Now();
    auto promise = std::make_shared<std::promise<std::unique_ptr<Request>>>();
    PendingRequest pending(promise->get_future());
    request->done = [promise](std::unique_ptr<Request> r) { promise->set_value(std::move(r)); };
    absl::StatusOr<RequestId> id = admission.Admit(std::move(request));
    if (!id.ok()) return id.status();
    pending.id = *id;
    return pending;
  }
  static ErrorReason ReasonOf(const absl::Status& status) {
    return GetErrorDetail(status).value_or(ErrorDetail{}).reason;
  }

  ServerCore core_;
};

TEST_F(AdmissionTest, BoundsRequestsItemsAndTokens) {
  struct Case {
    Admission::Options options;
    std::vector<int64_t> first, second;  // tokens of the items of two requests
  };
  const Case cases[] = {
      {{.max_queued_requests = 2}, {1}, {1}},
      {{.max_queued_items = 4}, {1, 1}, {1, 1}},
      {{.max_queued_tokens = 11}, {8}, {3}},
  };
  for (const Case& c : cases) {
    const auto admission = Make(c.options);
    const auto items = [&](const std::vector<int64_t>& tokens) {
      std::vector<WorkItem> result;
      result.reserve(tokens.size());
      for (int64_t t : tokens) result.push_back(core_.Dense(t));
      return result;
    };
    // Holds one of each all the time: an empty queue takes anything.
    absl::StatusOr<PendingRequest> held = Admit(*admission, {core_.Dense(1)});
    core_.platform.CompleteNext();
    held->Wait();
    absl::StatusOr<PendingRequest> first = Admit(*admission, items(c.first));
    ASSERT_TRUE(first.ok()) << first.status();
    const absl::Status full = Admit(*admission, items(c.second)).status();
    EXPECT_EQ(full.code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(ReasonOf(full), ErrorReason::kQueueFull);
    EXPECT_GT(GetErrorDetail(full)->retry_delay, Duration::zero());
    core_.platform.CompleteNext();
    first->Wait();
    // The share comes back with the request, not with the end of its launch.
    EXPECT_FALSE(Admit(*admission, items(c.second)).ok());
    first = absl::CancelledError();
    absl::StatusOr<PendingRequest> again = Admit(*admission, items(c.second));
    ASSERT_TRUE(again.ok()) << again.status();
    core_.platform.CompleteNext();
    again->Wait();
  }
  EXPECT_THAT(core_.metrics.Serialize(),
              HasSubstr("attnd_admission_refused_total{reason=\"queue_full\"} 6"));
}

// A tenant that fills its share finds the queue full; the others do not.
TEST_F(AdmissionTest, EachTenantHasItsShareOfTheQueue) {
  constexpr TenantIndex kChat(1), kCode(2);
  const auto admission = Make({.max_queued_requests = 8, .max_queued_tokens = 100});
  admission->SetTenantLimits(kChat, {.requests = 2, .items = 0, .tokens = 50});
  absl::StatusOr<PendingRequest> first = Admit(*admission, {core_.Dense(1)}, kNoDeadline, kChat);
  ASSERT_TRUE(first.ok());
  const absl::Status tokens = Admit(*admission, {core_.Dense(50)}, kNoDeadline, kChat).status();
  EXPECT_EQ(ReasonOf(tokens), ErrorReason::kQueueFull);
  EXPECT_GT(GetErrorDetail(tokens)->retry_delay, Duration::zero());
  EXPECT_THAT(std::string(tokens.message()),
              HasSubstr("the tenant's share of the queue is full: 1 of 2 requests"));
  absl::StatusOr<PendingRequest> second = Admit(*admission, {core_.Dense(1)}, kNoDeadline, kChat);
  ASSERT_TRUE(second.ok());
  EXPECT_FALSE(Admit(*admission, {core_.Dense(1)}, kNoDeadline, kChat).ok());
  EXPECT_EQ(admission->refused(kChat), 2u);

  absl::StatusOr<PendingRequest> other = Admit(*admission, {core_.Dense(60)}, kNoDeadline, kCode);
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_EQ(admission->refused(kCode), 0u);
  // What is answered makes room in the tenant's own share.
  core_.platform.CompleteNext();
  first->Wait();
  first = absl::CancelledError();
  absl::StatusOr<PendingRequest> again = Admit(*admission, {core_.Dense(1)}, kNoDeadline, kChat);
  EXPECT_TRUE(again.ok()) << again.status();
  core_.platform.CompleteAll();
  for (auto* request : {&second, &other, &again}) (*request)->Wait();
}

TEST_F(AdmissionTest, ARequestLargerThanTheQueueIsTakenAlone) {
  const auto admission = Make({.max_queued_tokens = 10});
  absl::StatusOr<PendingRequest> large = Admit(*admission, {core_.Dense(100)});
  ASSERT_TRUE(large.ok());
  EXPECT_FALSE(Admit(*admission, {core_.Dense(1)}).ok());
  core_.platform.CompleteNext();
  large->Wait();
}

TEST_F(AdmissionTest, RefusesAPastDeadline) {
  const auto admission = Make({});
  const absl::Status late = Admit(*admission, {core_.Dense(1)}, core_.clock.Now()).status();
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(core_.scheduler->stats().queued_items, 0);
}

TEST_F(AdmissionTest, RefusesWhileDrainingAndIdleStaysIdle) {
  const auto admission = Make({});
  EXPECT_FALSE(admission->draining());
  absl::StatusOr<PendingRequest> before = Admit(*admission, {core_.Dense(1)});
  admission->StartDraining();
  EXPECT_TRUE(admission->draining());
  const absl::Status refused = Admit(*admission, {core_.Dense(1)}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(refused), ErrorReason::kDraining);
  std::promise<void> idle;
  core_.scheduler->WhenIdle([&] { idle.set_value(); });
  core_.platform.CompleteNext();
  idle.get_future().wait();
  EXPECT_TRUE(before->done());
}

TEST_F(AdmissionTest, AnItemWithoutPagesFailsAloneAndNothingStaysReserved) {
  const auto admission = Make({});
  const SequenceId sequence = core_.NewSequence();
  // The pool has room for far fewer tokens than this.
  absl::StatusOr<PendingRequest> admitted =
      Admit(*admission, {core_.Write(sequence, 0, 1, 0, 4), core_.Write(sequence, 1, 1, 0, 1 << 20),
                         core_.Write(sequence, 2, 1, 0, 4)});
  ASSERT_TRUE(admitted.ok());
  core_.platform.CompleteNext();
  Request& request = admitted->Wait();
  EXPECT_TRUE(request.outcomes[0].status.ok()) << request.outcomes[0].status;
  EXPECT_EQ(request.outcomes[1].status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(request.outcomes[1].status), ErrorReason::kPagesExhausted);
  EXPECT_TRUE(request.outcomes[2].status.ok());
  EXPECT_EQ(core_.cache.Stats().caches[0].reserved, PageCount(0));
  EXPECT_THAT(core_.cache.Describe(core_.session, sequence)->layer_lengths,
              ElementsAre(4, 0, 4, 0));
}

TEST_F(AdmissionTest, ARequestWhoseItemsAllFailIsAnsweredAllTheSame) {
  const auto admission = Make({});
  absl::StatusOr<PendingRequest> admitted =
      Admit(*admission, {core_.Write(core_.NewSequence(), 0, 1, 0, 1 << 20)});
  ASSERT_TRUE(admitted.ok());
  EXPECT_EQ(admitted->WaitForStatus().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(core_.platform.launches(), 0);
  EXPECT_EQ(admitted->Wait().times.launched, admitted->Wait().times.done);
}

TEST_F(AdmissionTest, RetryDelayFollowsTheDrainRate) {
  DrainRate rate;
  const MonotonicTime start = core_.clock.Now();
  EXPECT_EQ(rate.TimeToDrain({.requests = 1}, start), DrainRate::kMaxDelay);
  // A thousand a second, for a while.
  MonotonicTime now = start;
  for (int i = 0; i < 5000; ++i) {
    now += milliseconds(1);
    rate.Add({.requests = 1, .items = 10, .tokens = 10}, now);
  }
  const Duration hundred = rate.TimeToDrain({.requests = 100}, now);
  EXPECT_GT(hundred, milliseconds(80));
  EXPECT_LT(hundred, milliseconds(125));
  EXPECT_LT(rate.TimeToDrain({.items = 100}, now), hundred);
  EXPECT_GT(rate.TimeToDrain({.requests = 10, .tokens = 5000}, now), hundred);
  EXPECT_EQ(rate.TimeToDrain({}, now), DrainRate::kMinDelay);
  EXPECT_EQ(rate.TimeToDrain({.requests = 1 << 20}, now), DrainRate::kMaxDelay);
  EXPECT_EQ(rate.TimeToDrain({.requests = 1}, now + seconds(60)), DrainRate::kMaxDelay);
}

TEST_F(AdmissionTest, DestructionWaitsForTheLastTicket) {
  auto admission = Make({});
  absl::StatusOr<PendingRequest> admitted = Admit(*admission, {core_.Dense(1)});
  core_.platform.CompleteNext();
  admitted->Wait();
  std::thread holder([&] { admitted = absl::CancelledError(); });
  admission.reset();
  holder.join();
}

// Stops the thread that asks for the time, once.
class StoppingClock final : public Clock {
 public:
  explicit StoppingClock(int calls_before) : calls_left_(calls_before) {}
  MonotonicTime Now() const override {
    if (calls_left_-- == 0) {
      stopped.count_down();
      go_on.wait();
    }
    return MonotonicTime(std::chrono::hours(1));
  }
  mutable std::latch stopped{1}, go_on{1};

 private:
  mutable std::atomic<int> calls_left_;
};

TEST_F(AdmissionTest, DrainingWaitsForSubmissionsUnderWay) {
  core_.platform.CompleteAll();
  const StoppingClock clock(/*calls_before=*/1);  // the deadline's; then between share and Submit
  Admission admission(core_.cache, *core_.scheduler, core_.metrics, clock, {});
  std::atomic<bool> finished = false, drained = false;
  std::thread client([&] {
    auto request = std::make_unique<Request>();
    request->items = {core_.Dense(1)};
    request->done = [&](std::unique_ptr<Request>) { finished = true; };
    EXPECT_TRUE(admission.Admit(std::move(request)).ok());
  });
  clock.stopped.wait();
  std::promise<bool> finished_at_idle;
  std::thread drainer([&] {
    admission.StartDraining();
    drained = true;
    core_.scheduler->WhenIdle([&] { finished_at_idle.set_value(finished); });
  });
  while (!admission.draining()) std::this_thread::yield();
  for (int i = 0; i < 1000; ++i) std::this_thread::yield();
  EXPECT_FALSE(drained);
  clock.go_on.count_down();
  EXPECT_TRUE(finished_at_idle.get_future().get());
  client.join();
  drainer.join();
}

}  // namespace
}  // namespace attnd
