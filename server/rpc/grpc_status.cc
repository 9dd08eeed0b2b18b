// SPDX-License-Identifier: Apache-2.0
#include "server/rpc/grpc_status.h"

#include <chrono>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "attnd/v1/rpc_status.pb.h"
#include "kv_cache/error_detail.h"

namespace attnd {
namespace {

// Messages travel in HTTP headers, which peers limit to 8 KiB or so.
constexpr size_t kMaxMessageBytes = 1024;

std::string MessageOf(const absl::Status& status) {
  return std::string(status.message().substr(0, kMaxMessageBytes));
}

int64_t RoundUpToMs(Duration duration) {
  return std::chrono::ceil<std::chrono::milliseconds>(duration).count();
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status, grpc::CallbackServerContext& context) {
  if (status.ok()) return grpc::Status::OK;
  v1::ErrorDetail detail;
  ToProto(status, detail);
  if (detail.retry_delay_ms() > 0) {
    context.AddTrailingMetadata("grpc-retry-pushback-ms", absl::StrCat(detail.retry_delay_ms()));
  }
  // The codes of absl are those of gRPC.
  v1::RpcStatus rpc_status;
  rpc_status.set_code(static_cast<int>(status.code()));
  rpc_status.set_message(MessageOf(status));
  rpc_status.add_details()->PackFrom(detail);
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), MessageOf(status),
                      rpc_status.SerializeAsString());
}

void ToProto(const absl::Status& status, v1::ItemStatus& proto) {
  proto.set_code(static_cast<int>(status.code()));
  if (status.ok()) return;
  proto.set_message(MessageOf(status));
  ToProto(status, *proto.mutable_detail());
}

void ToProto(const absl::Status& status, v1::ErrorDetail& proto) {
  const std::optional<ErrorDetail> detail = GetErrorDetail(status);
  if (!detail) return;
  proto.set_reason(static_cast<v1::ErrorDetail::Reason>(detail->reason));
  proto.set_retry_delay_ms(RoundUpToMs(detail->retry_delay));
  proto.set_needed_pages(detail->needed_pages.value());
  proto.set_free_pages(detail->free_pages.value());
  proto.set_limit_bytes(detail->limit_bytes.value());
}

}  // namespace attnd
