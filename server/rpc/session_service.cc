// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
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
    return Serve(context_, call, "OpenSession", Right::kAttend,
                 [&](const Caller& caller) { return Open(caller, *request, *response); });
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
  absl::Status Open(const Caller& caller, const v1::OpenSessionRequest& request,
                    v1::OpenSessionResponse& response) {
    ATTND_RETURN_IF_ERROR(RefuseWhileDraining(context_.admission));
    ATTND_ASSIGN_OR_RETURN(const Duration lease, DurationFromMs(request.lease_ms(), "lease_ms"));
    // Where callers are told apart, nobody speaks for another tenant.
    if (caller.role && !request.tenant().empty() && request.tenant() != *caller.name) {
      return absl::PermissionDeniedError(absl::StrCat("tenant: the token is of \"", *caller.name,
                                                      "\", expected that name or none"));
    }
    const std::string& scope = caller.role ? *caller.name : request.tenant();
    ATTND_ASSIGN_OR_RETURN(SessionGrant grant, context_.cache.OpenSession(lease, request.label(),
                                                                          scope, caller.tenant));
    ToProto(grant.ref.session, *response.mutable_session());
    response.set_epoch(grant.ref.epoch);
    response.set_token(std::move(grant.token));
    response.set_lease_ms(ToMs(grant.lease));
    return absl::OkStatus();
  }

  // Raises the epoch at once: from then on nothing of the former client is launched any more.
  absl::StatusOr<SessionRef> Resume(const Caller& caller, const v1::ResumeSessionRequest& request,
                                    v1::ResumeSessionResponse& response) {
    ATTND_ASSIGN_OR_RETURN(const Duration lease, DurationFromMs(request.lease_ms(), "lease_ms"));
    ATTND_ASSIGN_OR_RETURN(SessionGrant grant,
                           context_.cache.ResumeSession(request.token(), lease, caller.tenant));
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
  return ServeLater(context_, call, "ResumeSession", Right::kAttend,
                    [=, this](const Caller& caller, const Reply& reply) {
                      const absl::StatusOr<SessionRef> by = Resume(caller, *request, *response);
                      if (!by.ok()) return reply.Send(by.status());
                      context_.metrics.RecordSessionResumed();
                      context_.scheduler.EvictSession(by->session,
                                                      [this, reply, by = *by, response] {
                                                        reply.Send(AddSequences(by, *response));
                                                      });
                    });
}

grpc::ServerUnaryReactor* SessionServiceImpl::RenewLease(grpc::CallbackServerContext* call,
                                                         const v1::RenewLeaseRequest* request,
                                                         v1::RenewLeaseResponse* response) {
  return Serve(context_, call, "RenewLease", Right::kAttend, [&](const Caller& caller) {
    const absl::StatusOr<Duration> lease =
        context_.cache.RenewLease(AskedBy(*request, caller.tenant));
    if (lease.ok()) response->set_lease_ms(ToMs(*lease));
    return lease.status();
  });
}

grpc::ServerUnaryReactor* SessionServiceImpl::CloseSession(grpc::CallbackServerContext* call,
                                                           const v1::CloseSessionRequest* request,
                                                           v1::CloseSessionResponse*) {
  return ServeLater(
      context_, call, "CloseSession", Right::kAttend,
      [=, this](const Caller& caller, const Reply& reply) {
        const SessionRef by = AskedBy(*request, caller.tenant);
        // Before anything is evicted: only who holds the session may end it.
        if (const absl::Status status = context_.cache.RenewLease(by).status(); !status.ok()) {
          return reply.Send(status);
        }
        context_.scheduler.EvictSession(
            by.session, [this, reply, by] { reply.Send(context_.cache.CloseSession(by)); });
      });
}

}  // namespace

std::unique_ptr<grpc::Service> MakeSessionService(const ServiceContext& context) {
  return std::make_unique<SessionServiceImpl>(context);
}

}  // namespace attnd
