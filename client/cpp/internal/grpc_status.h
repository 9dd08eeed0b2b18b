// SPDX-License-Identifier: Apache-2.0
//
// Where gRPC statuses become absl statuses, with the daemon's details.
//
// Pure functions, safe from any thread.
//
//   absl::Status status = FromGrpcStatus(grpc_status, "127.0.0.1:7450");
#pragma once

#include <string_view>

#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "attnd/v1/types.pb.h"
#include "client/cpp/error_detail.h"

namespace attnd::client {

// A status of the daemon keeps its code, message and ErrorDetail. One that the channel made up is
// marked (IsChannelError) and names the address.
absl::Status FromGrpcStatus(const grpc::Status& status, std::string_view address);

absl::Status FromItemStatus(const v1::ItemStatus& status);
ErrorDetail FromProto(const v1::ErrorDetail& detail);

}  // namespace attnd::client
