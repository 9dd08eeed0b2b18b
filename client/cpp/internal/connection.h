// SPDX-License-Identifier: Apache-2.0
//
// The channel to one daemon, and the calls in flight on it.
//
// All calls go by method name and serialized message (grpc::GenericStub), so that tensors travel as
// slices. Sessions, sequences and streams share it. Thread-safe. Its destructor cancels what is in
// flight and waits: no callback of it runs afterwards. Never destroy it on a gRPC thread.
//
//   ATTND_ASSIGN_OR_RETURN(auto connection, Connection::Open(options));
//   absl::Status status = connection->Call(kListCaches, request, &response, Repeat::kAlways, {});
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include <google/protobuf/message_lite.h>
#include <grpcpp/channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cpp/client.h"
#include "client/cpp/internal/borrow_guard.h"
#include "client/cpp/internal/message_writer.h"
#include "client/cpp/internal/retry.h"
#include "client/cpp/internal/token_source.h"
#include "client/cpp/timers.h"
#include "kernels/base/mutex.h"

namespace attnd::client {

class UnaryCall;

// One call to make.
struct UnaryRequest {
  const char* method = nullptr;  // "/attnd.v1.CacheService/ListCaches"; static
  OutgoingMessage message{};
  std::shared_ptr<BorrowGuard> guard{};  // shared with `message`, of what it borrows; null: nothing
  Repeat repeat = Repeat::kOnlyIfRefused;
  CallOptions options{};
};

// The response may be moved out.
using UnaryDone = std::function<void(absl::Status, grpc::ByteBuffer& response)>;

class Connection {
 public:
  // INVALID_ARGUMENT for an address that cannot be one, or credentials that cannot work. Does not
  // connect yet.
  static absl::StatusOr<std::shared_ptr<Connection>> Open(const ClientOptions& options);
  ~Connection();

  // `done` runs once, on a thread of the library, after nothing is borrowed any more. Returns a
  // number that Cancel takes.
  uint64_t Start(UnaryRequest request, UnaryDone done) ABSL_LOCKS_EXCLUDED(mu_);
  void Cancel(uint64_t call) ABSL_LOCKS_EXCLUDED(mu_);

  // Start, and wait. The response is written where the status is OK.
  std::pair<absl::Status, grpc::ByteBuffer> CallRaw(UnaryRequest request);
  absl::Status Call(const char* method, const google::protobuf::MessageLite& request,
                    google::protobuf::MessageLite* response, Repeat repeat,
                    const CallOptions& options);

  grpc::GenericStub& stub() { return stub_; }
  Timers& timers() { return *options_.timers; }
  const std::shared_ptr<Timers>& shared_timers() const { return options_.timers; }
  const ClientOptions& options() const { return options_; }
  TokenSource& tokens() { return *tokens_; }
  // Of a call on this connection; says what to check where credentials were at fault.
  absl::Status ToStatus(const grpc::Status& status) const;

  // What Connect learned; set before the connection is shared.
  Capabilities capabilities;

 private:
  friend class UnaryCall;
  Connection(const ClientOptions& options, std::shared_ptr<grpc::Channel> channel,
             std::unique_ptr<TokenSource> tokens);
  void Forget(uint64_t call) ABSL_LOCKS_EXCLUDED(mu_);

  const ClientOptions options_;  // but for the token, which tokens_ has
  const std::unique_ptr<TokenSource> tokens_;
  std::shared_ptr<grpc::Channel> channel_;  // gRPC hands channels out shared
  grpc::GenericStub stub_;

  Mutex mu_;
  CondVar all_done_;
  uint64_t next_call_ ABSL_GUARDED_BY(mu_) = 1;
  // Shared with gRPC's callback of the attempt that runs.
  absl::flat_hash_map<uint64_t, std::shared_ptr<UnaryCall>> calls_ ABSL_GUARDED_BY(mu_);
};

}  // namespace attnd::client
