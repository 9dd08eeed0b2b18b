// SPDX-License-Identifier: Apache-2.0
//
// How the control methods begin and end: who asks is found out first, and the answer is given at
// once, or later on the scheduler's thread.
//
//   return Serve(context_, call, "OpenSession", Right::kAttend,
//                [&](const Caller& caller) { return Open(caller, *request, *response); });
//   return ServeLater(context_, call, "FreeSequence", Right::kAttend,
//                     [=, this](const Caller& caller, const Reply& reply) {
//     scheduler.WhenQuiet(sequence, [=, this] { reply.Send(cache.Free(by, sequence)); });
//   });
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/observe/log.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/identify.h"
#include "server/rpc/service_context.h"

namespace attnd {

// Ends a call, with a line in the log and its id in the trailing metadata. Copied into the callback
// that does; Send is called once, from any thread.
class Reply {
 public:
  Reply(const ServiceContext& context, grpc::CallbackServerContext* call, const char* method)
      : context_(&context),
        call_(call),
        reactor_(call->DefaultReactor()),
        method_(method),
        began_(context.clock.Now()),
        request_id_(RequestIdOf(HeaderOf(*call, kRequestIdKey))) {}

  void SetCaller(const Caller& caller) { tenant_ = caller.name; }
  void Send(const absl::Status& status) const;
  grpc::ServerUnaryReactor* reactor() const { return reactor_; }

 private:
  const ServiceContext* context_;
  grpc::CallbackServerContext* call_;
  grpc::ServerUnaryReactor* reactor_;
  const char* method_;  // as in the proto
  MonotonicTime began_;
  std::string request_id_;
  const std::string* tenant_ = nullptr;
};

// operation(caller, reply) sees to it that the reply is sent.
template <typename Operation>
grpc::ServerUnaryReactor* ServeLater(const ServiceContext& context,
                                     grpc::CallbackServerContext* call, const char* method,
                                     Right right, Operation operation) {
  Reply reply(context, call, method);
  if (const absl::StatusOr<Caller> caller = Identify(context, *call, right); caller.ok()) {
    reply.SetCaller(*caller);
    operation(*caller, std::as_const(reply));
  } else {
    reply.Send(caller.status());
  }
  return reply.reactor();
}

// operation(caller) returns the status of the call.
template <typename Operation>
grpc::ServerUnaryReactor* Serve(const ServiceContext& context, grpc::CallbackServerContext* call,
                                const char* method, Right right, Operation operation) {
  return ServeLater(context, call, method, right, [&](const Caller& caller, const Reply& reply) {
    reply.Send(operation(caller));
  });
}

}  // namespace attnd
