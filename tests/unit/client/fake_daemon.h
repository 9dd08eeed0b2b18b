// SPDX-License-Identifier: Apache-2.0
//
// A daemon of the test's making: the services of the wire contract, in this process, whose answers
// the test sets. Set the hooks before the calls that use them.
//
//   FakeDaemon daemon;
//   daemon.on_attend = [](const v1::AttendRequest& request, v1::AttendResponse* response) {...};
//   auto client = Client::Connect({.address = daemon.address()});
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>

#include "attnd/v1/attention.grpc.pb.h"
#include "attnd/v1/cache.grpc.pb.h"
#include "attnd/v1/sequence.grpc.pb.h"
#include "attnd/v1/session.grpc.pb.h"

namespace attnd::client {

// A gRPC status with an ErrorDetail in its details, as the daemon sends it.
grpc::Status Refusal(grpc::StatusCode code, const std::string& message,
                     const v1::ErrorDetail& detail);

// A response with one zeroed f32 output an item, of the shapes that the request implies.
void AnswerWithZeros(const v1::AttendRequest& request, int32_t head_dim_v,
                     v1::AttendResponse* response);

class FakeDaemon : private v1::AttentionService::Service,
                   private v1::CacheService::Service,
                   private v1::SessionService::Service,
                   private v1::SequenceService::Service {
 public:
  using Stream = grpc::ServerReaderWriter<v1::AttendResponse, v1::AttendRequest>;

  // Null: plain text.
  explicit FakeDaemon(std::shared_ptr<grpc::ServerCredentials> credentials = nullptr);
  ~FakeDaemon() override;

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  // What its health service says.
  void SetServing(bool serving);
  // Drops every connection and listens no more.
  void Stop();

  std::function<grpc::Status(grpc::ServerContext&, const v1::AttendRequest&, v1::AttendResponse*)>
      on_attend;
  std::function<grpc::Status(grpc::ServerContext&, Stream*)> on_stream;
  std::function<grpc::Status(const v1::CreateSequenceRequest&)> on_create;
  std::function<grpc::Status(v1::RenewLeaseResponse*)> on_renew;
  // Sees the token of each call, "" for none, and may refuse it.
  std::function<grpc::Status(const std::string& token)> on_token;
  v1::GetCapabilitiesResponse capabilities;
  int64_t lease_ms = 60'000;

  std::atomic<int> attends{0};
  std::atomic<int> creates{0};
  std::atomic<int> renewals{0};

 private:
  grpc::Status GetCapabilities(grpc::ServerContext* context,
                               const v1::GetCapabilitiesRequest* request,
                               v1::GetCapabilitiesResponse* response) override;
  grpc::Status Attend(grpc::ServerContext* context, const v1::AttendRequest* request,
                      v1::AttendResponse* response) override;
  grpc::Status AttendStream(grpc::ServerContext* context, Stream* stream) override;
  grpc::Status OpenCache(grpc::ServerContext* context, const v1::OpenCacheRequest* request,
                         v1::OpenCacheResponse* response) override;
  grpc::Status OpenSession(grpc::ServerContext* context, const v1::OpenSessionRequest* request,
                           v1::OpenSessionResponse* response) override;
  grpc::Status RenewLease(grpc::ServerContext* context, const v1::RenewLeaseRequest* request,
                          v1::RenewLeaseResponse* response) override;
  grpc::Status CreateSequence(grpc::ServerContext* context,
                              const v1::CreateSequenceRequest* request,
                              v1::CreateSequenceResponse* response) override;

  grpc::Status CheckToken(const grpc::ServerContext& context) const;

  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace attnd::client
