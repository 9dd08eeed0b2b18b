// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/error_detail.h"

#include <chrono>

#include "absl/strings/cord.h"
#include "attnd/v1/types.pb.h"
#include "client/cpp/internal/grpc_status.h"

namespace attnd::client {
namespace {

constexpr char kDetailUrl[] = "type.googleapis.com/attnd.v1.ErrorDetail";
constexpr char kChannelErrorUrl[] = "attnd.client/channel_error";

}  // namespace

std::string_view Name(ErrorReason reason) {
  switch (reason) {
    case ErrorReason::kUnspecified:
      return "unspecified";
    case ErrorReason::kQueueFull:
      return "queue full";
    case ErrorReason::kDraining:
      return "draining";
    case ErrorReason::kPagesExhausted:
      return "pages exhausted";
    case ErrorReason::kMessageTooLarge:
      return "message too large";
    case ErrorReason::kCapabilityMissing:
      return "capability missing";
    case ErrorReason::kStaleId:
      return "stale id";
    case ErrorReason::kSuperseded:
      return "superseded";
    case ErrorReason::kTenantLimit:
      return "tenant limit";
  }
  return "unspecified";
}

std::optional<ErrorDetail> GetErrorDetail(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kDetailUrl);
  v1::ErrorDetail detail;
  if (!payload || !detail.ParseFromString(std::string(*payload))) return std::nullopt;
  return FromProto(detail);
}

void SetErrorDetail(absl::Status& status, const ErrorDetail& detail) {
  v1::ErrorDetail proto;
  proto.set_reason(static_cast<v1::ErrorDetail::Reason>(detail.reason));
  proto.set_retry_delay_ms(
      std::chrono::duration_cast<std::chrono::milliseconds>(detail.retry_delay).count());
  proto.set_needed_pages(detail.needed_pages);
  proto.set_free_pages(detail.free_pages);
  proto.set_limit_bytes(detail.limit_bytes);
  status.SetPayload(kDetailUrl, absl::Cord(proto.SerializeAsString()));
}

bool IsChannelError(const absl::Status& status) {
  return status.GetPayload(kChannelErrorUrl).has_value();
}

void MarkChannelError(absl::Status& status) { status.SetPayload(kChannelErrorUrl, absl::Cord()); }

}  // namespace attnd::client
