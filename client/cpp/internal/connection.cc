// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/internal/connection.h"

#include <vector>

#include "client/cpp/error_detail.h"
#include "client/cpp/internal/concat.h"
#include "client/cpp/internal/grpc_status.h"
#include "client/cpp/internal/message_reader.h"
#include "client/cpp/internal/message_writer.h"
#include "client/cpp/internal/transport.h"
#include "client/cpp/internal/unary_call.h"
#include "kernels/base/status_macros.h"

namespace attnd::client {

Connection::Connection(const ClientOptions& options, std::shared_ptr<grpc::Channel> channel,
                       std::unique_ptr<TokenSource> tokens)
    : options_(options),
      tokens_(std::move(tokens)),
      channel_(std::move(channel)),
      stub_(channel_) {}

absl::StatusOr<std::shared_ptr<Connection>> Connection::Open(const ClientOptions& options) {
  ATTND_ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel,
                         MakeChannel(options.address, options.credentials));
  ATTND_ASSIGN_OR_RETURN(std::unique_ptr<TokenSource> tokens,
                         TokenSource::Make(options.credentials));
  ClientOptions complete = options;
  if (complete.timers == nullptr) complete.timers = Timers::Real();
  complete.credentials.token.clear();  // one copy of it is enough
  return std::shared_ptr<Connection>(
      new Connection(complete, std::move(channel), std::move(tokens)));
}

absl::Status Connection::ToStatus(const grpc::Status& grpc_status) const {
  absl::Status status = FromGrpcStatus(grpc_status, options_.address);
  if (IsChannelError(status)) {
    const auto advice =
        HandshakeAdvice(grpc_status.error_message(), options_.address, options_.credentials);
    if (!advice) return status;
    if (!advice->final) {
      absl::Status advised =
          absl::UnavailableError(Concat(status.message(), " (", advice->text, ")"));
      MarkChannelError(advised);
      return advised;
    }
    // Not marked as the channel's: it would fail the same way again.
    return absl::UnavailableError(Concat("TLS handshake with the daemon at ", options_.address,
                                         " failed: ", advice->text, " (",
                                         grpc_status.error_message(), ")"));
  }
  if (absl::IsUnauthenticated(status)) {
    return absl::UnauthenticatedError(
        Concat(status.message(), " (this client sent ", tokens_->Describe(), ")"));
  }
  return status;
}

Connection::~Connection() {
  MutexLock lock(mu_);
  while (!calls_.empty()) {
    std::vector<std::shared_ptr<UnaryCall>> calls;
    for (const auto& [id, call] : calls_) calls.push_back(call);
    mu_.Unlock();
    for (const auto& call : calls) call->Cancel();
    calls.clear();
    mu_.Lock();
    if (!calls_.empty()) all_done_.Wait(mu_);
  }
}

uint64_t Connection::Start(UnaryRequest request, UnaryDone done) {
  std::shared_ptr<UnaryCall> call;
  uint64_t id;
  {
    MutexLock lock(mu_);
    id = next_call_++;
    call = std::make_shared<UnaryCall>(*this, id, std::move(request), std::move(done));
    calls_.emplace(id, call);
  }
  call->StartAttempt();
  return id;
}

void Connection::Cancel(uint64_t call) {
  std::shared_ptr<UnaryCall> found;
  {
    MutexLock lock(mu_);
    if (auto it = calls_.find(call); it != calls_.end()) found = it->second;
  }
  if (found != nullptr) found->Cancel();
}

void Connection::Forget(uint64_t call) {
  MutexLock lock(mu_);
  calls_.erase(call);
  if (calls_.empty()) all_done_.SignalAll();
}

std::pair<absl::Status, grpc::ByteBuffer> Connection::CallRaw(UnaryRequest request) {
  struct Waiter {
    Mutex mu;
    CondVar done_cv;
    bool done ABSL_GUARDED_BY(mu) = false;
    absl::Status status ABSL_GUARDED_BY(mu);
    grpc::ByteBuffer response ABSL_GUARDED_BY(mu);
  } waiter;
  Start(std::move(request), [&waiter](absl::Status status, grpc::ByteBuffer& response) {
    MutexLock lock(waiter.mu);
    waiter.done = true;
    waiter.status = std::move(status);
    waiter.response.Swap(&response);
    waiter.done_cv.Signal();  // under the lock: the waiter owns the condition variable
  });
  MutexLock lock(waiter.mu);
  while (!waiter.done) waiter.done_cv.Wait(waiter.mu);
  std::pair<absl::Status, grpc::ByteBuffer> result;
  result.first = std::move(waiter.status);
  result.second.Swap(&waiter.response);
  return result;
}

absl::Status Connection::Call(const char* method, const google::protobuf::MessageLite& request,
                              google::protobuf::MessageLite* response, Repeat repeat,
                              const CallOptions& options) {
  auto [status, bytes] = CallRaw({.method = method,
                                  .message = Serialize(request),
                                  .guard = nullptr,
                                  .repeat = repeat,
                                  .options = options});
  ATTND_RETURN_IF_ERROR(status);
  return MessageReader().Parse(bytes, response);
}

}  // namespace attnd::client
