// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/internal/grpc_status.h"

#include <optional>

#include "absl/strings/match.h"
#include "attnd/v1/rpc_status.pb.h"
#include "client/cpp/internal/concat.h"

namespace attnd::client {
namespace {

std::optional<ErrorDetail> DetailOf(const grpc::Status& status) {
  v1::RpcStatus rpc_status;
  if (!rpc_status.ParseFromString(status.error_details())) return std::nullopt;
  for (const google::protobuf::Any& any : rpc_status.details()) {
    v1::ErrorDetail detail;
    if (any.Is<v1::ErrorDetail>() && any.UnpackTo(&detail)) return FromProto(detail);
  }
  return std::nullopt;
}

}  // namespace

ErrorDetail FromProto(const v1::ErrorDetail& detail) {
  return {.reason = v1::ErrorDetail::Reason_IsValid(detail.reason())
                        ? static_cast<ErrorReason>(detail.reason())
                        : ErrorReason::kUnspecified,
          .retry_delay = std::chrono::milliseconds(detail.retry_delay_ms()),
          .needed_pages = detail.needed_pages(),
          .free_pages = detail.free_pages(),
          .limit_bytes = detail.limit_bytes()};
}

absl::Status FromGrpcStatus(const grpc::Status& status, std::string_view address) {
  if (status.ok()) return absl::OkStatus();
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  if (const std::optional<ErrorDetail> detail = DetailOf(status)) {
    absl::Status result(code, status.error_message());
    SetErrorDetail(result, *detail);
    return result;
  }
  // gRPC reports a lost connection as UNAVAILABLE, and so does a daemon, but never without details.
  if (code == absl::StatusCode::kUnavailable) {
    absl::Status result = absl::UnavailableError(
        Concat("no answer from the daemon at ", address, ": ", status.error_message()));
    MarkChannelError(result);
    return result;
  }
  if (code == absl::StatusCode::kDeadlineExceeded &&
      absl::StrContains(status.error_message(), "Deadline Exceeded")) {
    return absl::DeadlineExceededError(
        Concat("no answer from the daemon at ", address, " before the call's deadline"));
  }
  return {code, status.error_message()};
}

absl::Status FromItemStatus(const v1::ItemStatus& status) {
  absl::Status result(static_cast<absl::StatusCode>(status.code()), status.message());
  if (!result.ok() && status.has_detail()) SetErrorDetail(result, FromProto(status.detail()));
  return result;
}

}  // namespace attnd::client
