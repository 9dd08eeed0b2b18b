// SPDX-License-Identifier: Apache-2.0
//
// One unary call with its attempts: sends, waits out the delays between attempts, gives up at the
// deadline or on Cancel, and reports once, when nothing is borrowed any more.
//
// Thread-safe. Made by Connection::Start, which keeps it until it has reported.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include <grpcpp/client_context.h>

#include "absl/status/status.h"
#include "client/cpp/internal/connection.h"

namespace attnd::client {

class UnaryCall : public std::enable_shared_from_this<UnaryCall> {
 public:
  UnaryCall(Connection& connection, uint64_t id, UnaryRequest request, UnaryDone done);

  void StartAttempt() ABSL_LOCKS_EXCLUDED(mu_);
  // The call ends with CANCELLED unless it has ended already.
  void Cancel() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  // The delay before the next attempt, or nothing where `status` is final.
  std::optional<Duration> DelayAfter(const absl::Status& status);
  void OnAttemptDone(const grpc::Status& status) ABSL_LOCKS_EXCLUDED(mu_);
  void Finish(absl::Status status) ABSL_LOCKS_EXCLUDED(mu_);

  Connection& connection_;  // outlives the call: its destructor waits for it
  const uint64_t id_;
  UnaryRequest request_;
  UnaryDone done_;
  const MonotonicTime deadline_;
  int attempts_ = 0;   // touched only between attempts
  std::string token_;  // of the last attempt
  bool token_renewed_ = false;
  grpc::ByteBuffer response_;  // written by gRPC during an attempt

  Mutex mu_;
  // Present while an attempt runs.
  std::shared_ptr<grpc::ClientContext> context_ ABSL_GUARDED_BY(mu_);
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
  bool waiting_ ABSL_GUARDED_BY(mu_) = false;  // for the next attempt
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace attnd::client
