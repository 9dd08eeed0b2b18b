// SPDX-License-Identifier: Apache-2.0
//
// One attention call from its message to its answer, without the reactor that carries it: parse,
// validate and stage; and, once the scheduler is done, the response with the results attached.
//
// Not thread-safe; used by one thread after another: a gRPC thread prepares, then the scheduler's
// thread answers.
//
//   AttendExchange exchange(context);
//   exchange.SetCaller(caller);
//   auto request = exchange.Prepare(message, deadline);     // null: nothing is left to run
//   request->done = [&](std::unique_ptr<Request> done) { Send(exchange.Respond(std::move(done)));
//   };
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/rpc/service_context.h"
#include "server/rpc/validate.h"
#include "server/scheduler/request.h"

namespace attnd {

// What both kinds of call do: keeps the layout of the results and cuts the times.
class Exchange {
 public:
  Exchange(const ServiceContext& context, Method method)
      : context_(context), method_(method), received_(context.clock.Now()) {}

  // Who calls, and the id it gave the call, if any: to be set before Prepare.
  void SetCaller(const Caller& caller) { caller_ = caller; }
  void SetCallId(std::optional<absl::string_view> from_client);
  // What the log calls it; made up when first asked for, where the client gave none.
  const std::string& call_id();

  // Counts a call that ends without a response, and gives its status back.
  absl::Status Refuse(absl::Status status);

 protected:
  // Moves a validated batch into a request that is ready for admission.
  absl::StatusOr<std::unique_ptr<Request>> Stage(PreparedBatch batch,
                                                 std::span<const ByteRange> tensor_data,
                                                 MonotonicTime deadline);
  // Cuts the request's life into its stages, for the response and for the metrics: one set of
  // numbers. `done` is null for a request of which nothing was left to run.
  void RecordTiming(const Request* done, v1::RequestTiming& timing);

  void Log(const absl::Status& status, Duration duration);

  const ServiceContext& context_;
  const Method method_;
  const MonotonicTime received_;
  Caller caller_;
  std::string call_id_;
  PreparedBatch batch_;  // without its items, which the request has
};

// Attend and each request of an AttendStream.
class AttendExchange : public Exchange {
 public:
  explicit AttendExchange(const ServiceContext& context) : Exchange(context, Method::kAttend) {}

  // The request to admit, or null where every item was refused. An error is that of the whole call.
  absl::StatusOr<std::unique_ptr<Request>> Prepare(const grpc::ByteBuffer& message,
                                                   MonotonicTime deadline);
  grpc::ByteBuffer Respond(std::unique_ptr<Request> done);
  // On a stream: the response that says why the request as a whole was refused.
  grpc::ByteBuffer RespondRefused(const absl::Status& status);

  uint64_t request_id() const { return request_id_; }

 private:
  uint64_t request_id_ = 0;
};

class FlashExchange : public Exchange {
 public:
  explicit FlashExchange(const ServiceContext& context)
      : Exchange(context, Method::kFlashAttention) {}

  absl::StatusOr<std::unique_ptr<Request>> Prepare(const grpc::ByteBuffer& message,
                                                   MonotonicTime deadline);
  // The first item's error is the call's.
  absl::StatusOr<grpc::ByteBuffer> Respond(std::unique_ptr<Request> done);

 private:
  v1::FlashAttentionResponse response_;  // shapes of out and lse
};

}  // namespace attnd
