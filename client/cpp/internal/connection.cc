// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/internal/connection.h"

#include <limits>
#include <vector>

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include "absl/strings/match.h"
#include "client/cpp/internal/concat.h"
#include "client/cpp/internal/message_reader.h"
#include "client/cpp/internal/message_writer.h"
#include "client/cpp/internal/unary_call.h"
#include "kernels/base/status_macros.h"

namespace attnd::client {
namespace {

grpc::ChannelArguments ChannelArguments() {
  grpc::ChannelArguments arguments;
  // The daemon states its limit, and the client checks it before sending.
  arguments.SetMaxSendMessageSize(-1);
  arguments.SetMaxReceiveMessageSize(-1);
  // Tensors are large: few frames, and a window that one of them fits into.
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, 16777215);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 8 << 20);
  // A connection of its own for each Client, so that two of them are two streams of bytes.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // A restarted daemon is found again in a moment, not after gRPC's usual minute or two.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  // Local addresses are reached directly.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return arguments;
}

absl::Status CheckAddress(const std::string& address) {
  if (absl::StartsWith(address, "unix:")) {
    return address.size() > 5 ? absl::OkStatus()
                              : absl::InvalidArgumentError("address 'unix:' has no path");
  }
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == address.size()) {
    return absl::InvalidArgumentError(
        Concat("address '", address, "' is neither host:port nor unix:/path"));
  }
  return absl::OkStatus();
}

}  // namespace

Connection::Connection(const ClientOptions& options, std::shared_ptr<grpc::Channel> channel)
    : options_(options), channel_(std::move(channel)), stub_(channel_) {}

absl::StatusOr<std::shared_ptr<Connection>> Connection::Open(const ClientOptions& options) {
  ATTND_RETURN_IF_ERROR(CheckAddress(options.address));
  ClientOptions complete = options;
  if (complete.timers == nullptr) complete.timers = Timers::Real();
  std::shared_ptr<grpc::Channel> channel = grpc::CreateCustomChannel(
      options.address, grpc::InsecureChannelCredentials(), ChannelArguments());
  return std::shared_ptr<Connection>(new Connection(complete, std::move(channel)));
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
