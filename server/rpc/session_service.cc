// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <utility>

#include "attnd/v1/session.grpc.pb.h"
#include "kernels/base/status_macros.h"
#include "server/rpc/convert.h"
#include "server/rpc/draining.h"
#include "server/rpc/reply.h"
#include "server/rpc/services.h"

namespace attnd {
namespace {

class SessionServiceImpl final : public v1::SessionService::CallbackService {
 public:
  explicit SessionServiceImpl(const ServiceContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* OpenSession(grpc::CallbackServerContext* call,
                                        const v1::OpenSessionRequest* request,
                                        v1::OpenSessionResponse* response) override {
    return ReplyNow(call, Open(*request, *response));
  }
  grpc::ServerUnaryReactor* ResumeSession(grpc::CallbackServerContext* call,
                                          const v1::ResumeSessionRequest* request,
                                          v1::ResumeSessionResponse* response) override;
  grpc::ServerUnaryReactor* RenewLease(grpc::CallbackServerContext* call,
                                       const v1::RenewLeaseRequest* request,
                                       v1::RenewLeaseResponse* response) override;
  grpc::ServerUnaryReactor* CloseSession(grpc::CallbackServerContext* call,
                                         const v1::CloseSessionRequest* request,
                                         v1::CloseSessionResponse* response) override;

 private:
  absl::Status Open(const v1::OpenSessionRequest& request, v1::OpenSessionResponse& response) {
    ATTND_RETURN_IF_ERROR(RefuseWhileDraining(context_.admission));
    ATTND_ASSIGN_OR_RETURN(const Duration lease, DurationFromMs(request.lease_ms(), "lease_ms"));
    ATTND_ASSIGN_OR_RETURN(SessionGrant grant,
                           context_.cache.OpenSession(lease, request.label(), request.tenant()));
    ToProto(grant.ref.session, *response.mutable_session());
    response.set_epoch(grant.ref.epoch);
    response.set_token(std::move(grant.token));
    response.set_lease_ms(ToMs(grant.lease));
    return absl::OkStatus();
  }

  // Raises the epoch at once: from then on nothing of the former client is launched any more.
  absl::StatusOr<SessionRef> Resume(const v1::ResumeSessionRequest& request,
                                    v1::ResumeSessionResponse& response) {
    ATTND_ASSIGN_OR_RETURN(const Duration lease, DurationFromMs(request.lease_ms(), "lease_ms"));
    ATTND_ASSIGN_OR_RETURN(SessionGrant grant,
                           context_.cache.ResumeSession(request.token(), lease));
    ToProto(grant.ref.session, *response.mutable_session());
    response.set_epoch(grant.ref.epoch);
    response.set_token(std::move(grant.token));
    response.set_lease_ms(ToMs(grant.lease));
    return grant.ref;
  }

  // What the new client has to know, taken once nothing of the former one runs any more.
  absl::Status AddSequences(SessionRef by, v1::ResumeSessionResponse& response) {
    ATTND_ASSIGN_OR_RETURN(std::vector<SequenceInfo> sequences,
                           context_.cache.ResumedSequences(by));
    for (SequenceInfo& info : sequences) ToProto(std::move(info), *response.add_sequences());
    return absl::OkStatus();
  }

  const ServiceContext& context_;
};

grpc::ServerUnaryReactor* SessionServiceImpl::ResumeSession(grpc::CallbackServerContext* call,
                                                            const v1::ResumeSessionRequest* request,
                                                            v1::ResumeSessionResponse* response) {
  const absl::StatusOr<SessionRef> by = Resume(*request, *response);
  if (!by.ok()) return ReplyNow(call, by.status());
  context_.metrics.RecordSessionResumed();
  const Reply reply(call);
  context_.scheduler.EvictSession(
      by->session, [this, reply, by = *by, response] { reply.Send(AddSequences(by, *response)); });
  return reply.reactor();
}

grpc::ServerUnaryReactor* SessionServiceImpl::RenewLease(grpc::CallbackServerContext* call,
                                                         const v1::RenewLeaseRequest* request,
                                                         v1::RenewLeaseResponse* response) {
  const absl::StatusOr<Duration> lease = context_.cache.RenewLease(AskedBy(*request));
  if (lease.ok()) response->set_lease_ms(ToMs(*lease));
  return ReplyNow(call, lease.status());
}

grpc::ServerUnaryReactor* SessionServiceImpl::CloseSession(grpc::CallbackServerContext* call,
                                                           const v1::CloseSessionRequest* request,
                                                           v1::CloseSessionResponse*) {
  const SessionRef by = AskedBy(*request);
  // Before anything is evicted: only who holds the session may end it.
  if (const absl::Status status = context_.cache.RenewLease(by).status(); !status.ok()) {
    return ReplyNow(call, status);
  }
  const Reply reply(call);
  context_.scheduler.EvictSession(
      by.session, [this, reply, by] { reply.Send(context_.cache.CloseSession(by)); });
  return reply.reactor();
}

}  // namespace

std::unique_ptr<grpc::Service> MakeSessionService(const ServiceContext& context) {
  return std::make_unique<SessionServiceImpl>(context);
}

}  // namespace attnd
