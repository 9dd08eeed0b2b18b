// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/internal/retry.h"

#include <chrono>

#include <gtest/gtest.h>

#include "client/cpp/error_detail.h"

namespace attnd::client {
namespace {

using std::chrono::milliseconds;

absl::Status Refused(absl::StatusCode code, ErrorReason reason, Duration delay = {}) {
  absl::Status status(code, "refused");
  SetErrorDetail(status, {.reason = reason, .retry_delay = delay});
  return status;
}

absl::Status ChannelError() {
  absl::Status status = absl::UnavailableError("connection reset");
  MarkChannelError(status);
  return status;
}

TEST(RetryDelayTest, WaitsAsLongAsTheDaemonAsksWhereItsQueueIsFull) {
  const absl::Status full =
      Refused(absl::StatusCode::kUnavailable, ErrorReason::kQueueFull, milliseconds(40));
  for (const Repeat repeat : {Repeat::kAlways, Repeat::kOnlyIfRefused}) {
    EXPECT_EQ(RetryDelay({}, full, repeat, 1, 0.0), milliseconds(40));
    EXPECT_EQ(RetryDelay({}, full, repeat, 5, 0.0), milliseconds(40));
    EXPECT_EQ(RetryDelay({}, full, repeat, 1, 1.0), milliseconds(50));
  }
}

TEST(RetryDelayTest, NeverRetriesAtADrainingDaemon) {
  const absl::Status draining =
      Refused(absl::StatusCode::kUnavailable, ErrorReason::kDraining, milliseconds(40));
  EXPECT_EQ(RetryDelay({}, draining, Repeat::kAlways, 1, 0.0), std::nullopt);
}

TEST(RetryDelayTest, RepeatsAfterAChannelErrorOnlyWhatMayRunTwice) {
  const RetryPolicy policy{.initial_backoff = milliseconds(20), .max_backoff = milliseconds(60)};
  EXPECT_EQ(RetryDelay(policy, ChannelError(), Repeat::kOnlyIfRefused, 1, 1.0), std::nullopt);
  EXPECT_EQ(RetryDelay(policy, ChannelError(), Repeat::kAlways, 1, 1.0), milliseconds(20));
  EXPECT_EQ(RetryDelay(policy, ChannelError(), Repeat::kAlways, 2, 1.0), milliseconds(40));
  EXPECT_EQ(RetryDelay(policy, ChannelError(), Repeat::kAlways, 3, 1.0), milliseconds(60));
  EXPECT_EQ(RetryDelay(policy, ChannelError(), Repeat::kAlways, 1, 0.0), milliseconds(10));
}

TEST(RetryDelayTest, GivesUpAfterTheLastAttempt) {
  const RetryPolicy policy{.max_attempts = 3};
  EXPECT_NE(RetryDelay(policy, ChannelError(), Repeat::kAlways, 2, 0.0), std::nullopt);
  EXPECT_EQ(RetryDelay(policy, ChannelError(), Repeat::kAlways, 3, 0.0), std::nullopt);
}

TEST(RetryDelayTest, RetriesNoOtherCode) {
  using enum absl::StatusCode;
  for (const absl::StatusCode code :
       {kOk, kInvalidArgument, kNotFound, kAborted, kDataLoss, kFailedPrecondition, kUnimplemented,
        kResourceExhausted, kDeadlineExceeded, kCancelled, kUnauthenticated, kPermissionDenied,
        kInternal, kUnknown}) {
    const absl::Status status = code == kOk ? absl::OkStatus() : absl::Status(code, "no");
    EXPECT_EQ(RetryDelay({}, status, Repeat::kAlways, 1, 0.0), std::nullopt) << status;
  }
}

}  // namespace
}  // namespace attnd::client
