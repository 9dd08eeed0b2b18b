// SPDX-License-Identifier: Apache-2.0
#include "server/rpc/grpc_status.h"

#include <gtest/gtest.h>

#include <chrono>

#include "kv_cache/error_detail.h"

namespace attnd {
namespace {

TEST(GrpcStatusTest, ErrorDetailsReachTheWire) {
  const absl::Status status = AttachErrorDetail(absl::ResourceExhaustedError("no pages"),
                                                {.reason = ErrorReason::kPagesExhausted,
                                                 .retry_delay = std::chrono::microseconds(1500),
                                                 .needed_pages = PageCount(7),
                                                 .free_pages = PageCount(3),
                                                 .limit_bytes = Bytes(9)});
  v1::ErrorDetail detail;
  ToProto(status, detail);
  EXPECT_EQ(detail.reason(), v1::ErrorDetail::PAGES_EXHAUSTED);
  EXPECT_EQ(detail.retry_delay_ms(), 2);  // never retried too early
  EXPECT_EQ(detail.needed_pages(), 7);
  EXPECT_EQ(detail.free_pages(), 3);
  EXPECT_EQ(detail.limit_bytes(), 9u);
}

TEST(GrpcStatusTest, ReasonsHaveTheNumbersOfTheProto) {
  const std::pair<ErrorReason, v1::ErrorDetail::Reason> reasons[] = {
      {ErrorReason::kUnspecified, v1::ErrorDetail::REASON_UNSPECIFIED},
      {ErrorReason::kQueueFull, v1::ErrorDetail::QUEUE_FULL},
      {ErrorReason::kDraining, v1::ErrorDetail::DRAINING},
      {ErrorReason::kPagesExhausted, v1::ErrorDetail::PAGES_EXHAUSTED},
      {ErrorReason::kMessageTooLarge, v1::ErrorDetail::MESSAGE_TOO_LARGE},
      {ErrorReason::kCapabilityMissing, v1::ErrorDetail::CAPABILITY_MISSING},
      {ErrorReason::kStaleId, v1::ErrorDetail::STALE_ID},
      {ErrorReason::kSuperseded, v1::ErrorDetail::SUPERSEDED},
      {ErrorReason::kTenantLimit, v1::ErrorDetail::TENANT_LIMIT}};
  EXPECT_EQ(std::size(reasons), static_cast<size_t>(v1::ErrorDetail::Reason_ARRAYSIZE));
  for (const auto& [ours, wire] : reasons) {
    v1::ErrorDetail detail;
    ToProto(AttachErrorDetail(absl::UnknownError("x"), {.reason = ours}), detail);
    EXPECT_EQ(detail.reason(), wire);
  }
}

TEST(GrpcStatusTest, MessagesAreShortEnoughForAHeader) {
  v1::ItemStatus item;
  ToProto(absl::InternalError(std::string(100000, 'x')), item);
  EXPECT_EQ(item.code(), static_cast<int>(absl::StatusCode::kInternal));
  EXPECT_LE(item.message().size(), 1024u);
  ToProto(absl::OkStatus(), item);
  EXPECT_EQ(item.code(), 0);
}

}  // namespace
}  // namespace attnd
