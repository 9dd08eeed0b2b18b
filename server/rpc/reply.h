// SPDX-License-Identifier: Apache-2.0
//
// How the control methods end: at once, or later on the scheduler's thread.
//
// A Reply is copied into the callback that ends the call; Send is called once, from any thread.
//
//   Reply reply(call);
//   scheduler.WhenQuiet(sequence, [=, this] { reply.Send(cache.Free(by, sequence)); });
//   return reply.reactor();
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include "absl/status/status.h"
#include "server/rpc/grpc_status.h"

namespace attnd {

class Reply {
 public:
  explicit Reply(grpc::CallbackServerContext* call)
      : call_(call), reactor_(call->DefaultReactor()) {}

  void Send(const absl::Status& status) const { reactor_->Finish(ToGrpcStatus(status, *call_)); }
  grpc::ServerUnaryReactor* reactor() const { return reactor_; }

 private:
  grpc::CallbackServerContext* call_;
  grpc::ServerUnaryReactor* reactor_;
};

inline grpc::ServerUnaryReactor* ReplyNow(grpc::CallbackServerContext* call,
                                          const absl::Status& status) {
  const Reply reply(call);
  reply.Send(status);
  return reply.reactor();
}

}  // namespace attnd
