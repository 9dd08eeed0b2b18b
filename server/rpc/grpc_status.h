// SPDX-License-Identifier: Apache-2.0
//
// Where a gRPC status is born, and nowhere else: from the daemon's absl::Status, with its details.
//
// A failed call carries, under `grpc-status-details-bin`, an RpcStatus (the wire format of
// google.rpc.Status) with one ErrorDetail; where the error says when to retry, the trailing
// metadata `grpc-retry-pushback-ms` tells gRPC's own retry logic too. Pure functions, safe from any
// thread.
//
//   reactor->Finish(ToGrpcStatus(status, *context));
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "attnd/v1/attention.pb.h"
#include "attnd/v1/types.pb.h"

namespace attnd {

// An error without a detail gets one with REASON_UNSPECIFIED: what has none at all is gRPC's own.
grpc::Status ToGrpcStatus(const absl::Status& status, grpc::CallbackServerContext& context);

// The same for one item of a response, or a request that a stream refuses.
void ToProto(const absl::Status& status, v1::ItemStatus& proto);
void ToProto(const absl::Status& status, v1::ErrorDetail& proto);

}  // namespace attnd
