// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/internal/lease_renewer.h"

#include <chrono>
#include <memory>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/client/manual_timers.h"

namespace attnd::client {
namespace {

using std::chrono::seconds;

class LeaseRenewerTest : public testing::Test {
 protected:
  // A renewer whose renewals end with `next_`.
  std::shared_ptr<LeaseRenewer> Start(Duration lease) {
    return LeaseRenewer::Start(timers_, lease, [this](Duration, const LeaseRenewer::Done& done) {
      ++renewals_;
      done(next_);
    });
  }

  std::shared_ptr<ManualTimers> timers_ = std::make_shared<ManualTimers>();
  absl::StatusOr<Duration> next_ = Duration(seconds(30));
  int renewals_ = 0;
};

TEST_F(LeaseRenewerTest, RenewsAtAThirdOfTheLease) {
  const auto renewer = Start(seconds(30));
  timers_->Advance(seconds(9));
  EXPECT_EQ(renewals_, 0);
  timers_->Advance(seconds(1));
  EXPECT_EQ(renewals_, 1);
  timers_->Advance(seconds(100));
  EXPECT_EQ(renewals_, 11);
}

TEST_F(LeaseRenewerTest, FollowsALeaseThatTheDaemonChanges) {
  const auto renewer = Start(seconds(30));
  next_ = Duration(seconds(3));
  timers_->Advance(seconds(10));
  timers_->Advance(seconds(10));
  EXPECT_EQ(renewals_, 11);
}

TEST_F(LeaseRenewerTest, TriesSoonerWhileTheDaemonIsAway) {
  const auto renewer = Start(seconds(24));
  next_ = absl::UnavailableError("away");
  timers_->Advance(seconds(8));
  EXPECT_EQ(renewals_, 1);
  timers_->Advance(seconds(4));  // a twelfth of the lease each
  EXPECT_EQ(renewals_, 3);
  EXPECT_TRUE(renewer->status().ok());
}

TEST_F(LeaseRenewerTest, StopsWithTheReasonOnceTheSessionIsGone) {
  const auto renewer = Start(seconds(30));
  next_ = absl::AbortedError("resumed elsewhere");
  timers_->Advance(seconds(10));
  EXPECT_TRUE(absl::IsAborted(renewer->status()));
  timers_->Advance(seconds(100));
  EXPECT_EQ(renewals_, 1);
  EXPECT_TRUE(timers_->idle());
}

TEST_F(LeaseRenewerTest, DoesNothingOnceStopped) {
  const auto renewer = Start(seconds(30));
  renewer->Stop();
  timers_->Advance(seconds(100));
  EXPECT_EQ(renewals_, 0);
}

TEST_F(LeaseRenewerTest, ALateAnswerAfterItsEndIsHarmless) {
  LeaseRenewer::Done late;
  auto renewer = LeaseRenewer::Start(
      timers_, seconds(30), [&late](Duration, LeaseRenewer::Done done) { late = std::move(done); });
  timers_->Advance(seconds(10));
  renewer->Stop();
  renewer = nullptr;
  late(Duration(seconds(30)));
  EXPECT_TRUE(timers_->idle());
}

}  // namespace
}  // namespace attnd::client
