// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/client/fake_daemon.h"

#include <chrono>

#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server_builder.h>

#include "attnd/v1/rpc_status.pb.h"

namespace attnd::client {

grpc::Status Refusal(grpc::StatusCode code, const std::string& message,
                     const v1::ErrorDetail& detail) {
  v1::RpcStatus status;
  status.set_code(code);
  status.set_message(message);
  status.add_details()->PackFrom(detail);
  return {code, message, status.SerializeAsString()};
}

void AnswerWithZeros(const v1::AttendRequest& request, int32_t head_dim_v,
                     v1::AttendResponse* response) {
  response->set_request_id(request.request_id());
  for (const v1::AttendItem& item : request.items()) {
    v1::ItemResult* result = response->add_results();
    if (!item.has_q()) continue;
    v1::Tensor* out = result->mutable_out();
    out->set_dtype(v1::DTYPE_F32);
    out->set_offset_bytes(response->tensor_data().size());
    out->add_shape(item.q().shape(0));
    out->add_shape(item.q().shape(1));
    out->add_shape(head_dim_v);
    response->mutable_tensor_data()->append(
        static_cast<size_t>(item.q().shape(0) * item.q().shape(1) * head_dim_v) * 4, '\0');
  }
}

FakeDaemon::FakeDaemon(std::shared_ptr<grpc::ServerCredentials> credentials) {
  capabilities.set_version("fake");
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  if (credentials == nullptr) credentials = grpc::InsecureServerCredentials();
  builder.AddListeningPort("127.0.0.1:0", credentials, &port_);
  builder.SetMaxReceiveMessageSize(-1);
  builder.RegisterService(static_cast<v1::AttentionService::Service*>(this));
  builder.RegisterService(static_cast<v1::CacheService::Service*>(this));
  builder.RegisterService(static_cast<v1::SessionService::Service*>(this));
  builder.RegisterService(static_cast<v1::SequenceService::Service*>(this));
  server_ = builder.BuildAndStart();
  SetServing(true);
}

FakeDaemon::~FakeDaemon() { Stop(); }

void FakeDaemon::SetServing(bool serving) {
  server_->GetHealthCheckService()->SetServingStatus(serving);
  server_->GetHealthCheckService()->SetServingStatus("attnd.v1.AttentionService", serving);
}

void FakeDaemon::Stop() {
  if (server_ == nullptr) return;
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
  server_ = nullptr;
}

grpc::Status FakeDaemon::CheckToken(const grpc::ServerContext& context) const {
  if (on_token == nullptr) return grpc::Status::OK;
  constexpr std::string_view kScheme = "Bearer ";
  const auto found = context.client_metadata().find("authorization");
  if (found == context.client_metadata().end()) return on_token("");
  const std::string header(found->second.data(), found->second.size());
  return header.starts_with(kScheme) ? on_token(header.substr(kScheme.size()))
                                     : grpc::Status(grpc::StatusCode::UNAUTHENTICATED, header);
}

grpc::Status FakeDaemon::GetCapabilities(grpc::ServerContext* context,
                                         const v1::GetCapabilitiesRequest*,
                                         v1::GetCapabilitiesResponse* response) {
  if (grpc::Status status = CheckToken(*context); !status.ok()) return status;
  *response = capabilities;
  return grpc::Status::OK;
}

grpc::Status FakeDaemon::Attend(grpc::ServerContext* context, const v1::AttendRequest* request,
                                v1::AttendResponse* response) {
  ++attends;
  return on_attend(*context, *request, response);
}

grpc::Status FakeDaemon::AttendStream(grpc::ServerContext* context, Stream* stream) {
  if (grpc::Status status = CheckToken(*context); !status.ok()) return status;
  return on_stream(*context, stream);
}

grpc::Status FakeDaemon::OpenCache(grpc::ServerContext*, const v1::OpenCacheRequest* request,
                                   v1::OpenCacheResponse* response) {
  response->mutable_cache()->set_handle(1);
  *response->mutable_info()->mutable_geometry() = request->geometry();
  response->mutable_info()->set_name(request->name());
  response->set_created(true);
  return grpc::Status::OK;
}

grpc::Status FakeDaemon::OpenSession(grpc::ServerContext* context, const v1::OpenSessionRequest*,
                                     v1::OpenSessionResponse* response) {
  if (grpc::Status status = CheckToken(*context); !status.ok()) return status;
  response->mutable_session()->set_handle(2);
  response->set_token("0123456789abcdef");
  response->set_epoch(1);
  response->set_lease_ms(lease_ms);
  return grpc::Status::OK;
}

grpc::Status FakeDaemon::RenewLease(grpc::ServerContext*, const v1::RenewLeaseRequest*,
                                    v1::RenewLeaseResponse* response) {
  ++renewals;
  response->set_lease_ms(lease_ms);
  return on_renew == nullptr ? grpc::Status::OK : on_renew(response);
}

grpc::Status FakeDaemon::CreateSequence(grpc::ServerContext*,
                                        const v1::CreateSequenceRequest* request,
                                        v1::CreateSequenceResponse* response) {
  response->mutable_sequence()->set_handle(100 + static_cast<uint64_t>(++creates));
  return on_create == nullptr ? grpc::Status::OK : on_create(*request);
}

}  // namespace attnd::client
