// SPDX-License-Identifier: Apache-2.0
//
// The reactors of the attention service's calls: between gRPC's threads and the scheduler's.
//
// A reactor belongs to gRPC from the moment its method returns it until OnDone, where it deletes
// itself; that comes only after Finish, so whatever still has to call Finish may use it.
//
//   return StartAttend(context, call, request, response);
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "server/rpc/service_context.h"

namespace attnd {

// Each starts the call and returns its reactor.
grpc::ServerUnaryReactor* StartAttend(const ServiceContext& context,
                                      grpc::CallbackServerContext* call,
                                      const grpc::ByteBuffer* request, grpc::ByteBuffer* response);
grpc::ServerUnaryReactor* StartFlashAttention(const ServiceContext& context,
                                              grpc::CallbackServerContext* call,
                                              const grpc::ByteBuffer* request,
                                              grpc::ByteBuffer* response);
grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StartAttendStream(
    const ServiceContext& context, grpc::CallbackServerContext* call);

// When the call's deadline comes, on the daemon's clock.
MonotonicTime DeadlineOf(const grpc::CallbackServerContext& call, const Clock& clock);

}  // namespace attnd
