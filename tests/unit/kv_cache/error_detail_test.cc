// SPDX-License-Identifier: Apache-2.0
#include "kv_cache/error_detail.h"

#include <gtest/gtest.h>

#include "absl/strings/cord.h"

namespace attnd {
namespace {

TEST(ErrorDetailTest, ComesBackAsItWasAttached) {
  const ErrorDetail detail{.reason = ErrorReason::kQueueFull,
                           .retry_delay = std::chrono::milliseconds(250),
                           .needed_pages = PageCount(INT64_MAX),
                           .free_pages = PageCount(-1),
                           .limit_bytes = Bytes(UINT64_MAX)};
  const absl::Status status = AttachErrorDetail(absl::UnavailableError("full"), detail);
  EXPECT_EQ(status.message(), "full");
  EXPECT_EQ(GetErrorDetail(status), detail);
}

TEST(ErrorDetailTest, LaterOneReplacesTheFormer) {
  absl::Status status =
      AttachErrorDetail(absl::AbortedError(""), {.reason = ErrorReason::kStaleId});
  status = AttachErrorDetail(std::move(status), {.reason = ErrorReason::kTenantLimit});
  EXPECT_EQ(GetErrorDetail(status)->reason, ErrorReason::kTenantLimit);
}

TEST(ErrorDetailTest, NothingWhereNoneWasAttached) {
  EXPECT_EQ(GetErrorDetail(absl::AbortedError("")), std::nullopt);
  EXPECT_EQ(GetErrorDetail(AttachErrorDetail(absl::OkStatus(), {})), std::nullopt);
}

TEST(ErrorDetailTest, NothingWhereItDoesNotParse) {
  for (const char* payload : {"", ";;;;", "1;2;3;4", "1;2;3;4;5;6", "9;0;0;0;0", "-1;0;0;0;0",
                              "x;0;0;0;0", "1;0;0;99999999999999999999;0"}) {
    absl::Status status = absl::AbortedError("");
    status.SetPayload(kErrorDetailTypeUrl, absl::Cord(payload));
    EXPECT_EQ(GetErrorDetail(status), std::nullopt) << payload;
  }
}

}  // namespace
}  // namespace attnd
