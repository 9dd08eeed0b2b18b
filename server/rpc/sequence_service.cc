// SPDX-License-Identifier: Apache-2.0
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "attnd/v1/sequence.grpc.pb.h"
#include "kernels/base/status_macros.h"
#include "server/rpc/convert.h"
#include "server/rpc/draining.h"
#include "server/rpc/reply.h"
#include "server/rpc/services.h"

namespace attnd {
namespace {

absl::Status CheckLength(int64_t length) {
  if (length >= 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("length: ", length, ", expected at least 0"));
}

// Of any message with the field `keys`, which outlives the views.
template <typename Message>
std::vector<std::string_view> KeysOf(const Message& message) {
  return {message.keys().begin(), message.keys().end()};
}

class SequenceServiceImpl final : public v1::SequenceService::CallbackService {
 public:
  explicit SequenceServiceImpl(const ServiceContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* CreateSequence(grpc::CallbackServerContext* call,
                                           const v1::CreateSequenceRequest* request,
                                           v1::CreateSequenceResponse* response) override {
    return Serve(context_, call, "CreateSequence", Right::kAttend,
                 [&](const Caller& caller) { return Create(caller, *request, *response); });
  }
  grpc::ServerUnaryReactor* ForkSequence(grpc::CallbackServerContext* call,
                                         const v1::ForkSequenceRequest* request,
                                         v1::ForkSequenceResponse* response) override;
  grpc::ServerUnaryReactor* TruncateSequence(grpc::CallbackServerContext* call,
                                             const v1::TruncateSequenceRequest* request,
                                             v1::TruncateSequenceResponse* response) override;
  grpc::ServerUnaryReactor* FreeSequence(grpc::CallbackServerContext* call,
                                         const v1::FreeSequenceRequest* request,
                                         v1::FreeSequenceResponse* response) override;
  grpc::ServerUnaryReactor* PublishPrefix(grpc::CallbackServerContext* call,
                                          const v1::PublishPrefixRequest* request,
                                          v1::PublishPrefixResponse* response) override;
  grpc::ServerUnaryReactor* MatchPrefix(grpc::CallbackServerContext* call,
                                        const v1::MatchPrefixRequest* request,
                                        v1::MatchPrefixResponse* response) override {
    return Serve(context_, call, "MatchPrefix", Right::kAttend,
                 [&](const Caller& caller) { return Match(caller, *request, *response); });
  }
  grpc::ServerUnaryReactor* DescribeSequence(grpc::CallbackServerContext* call,
                                             const v1::DescribeSequenceRequest* request,
                                             v1::DescribeSequenceResponse* response) override {
    return Serve(context_, call, "DescribeSequence", Right::kAttend,
                 [&](const Caller& caller) { return Describe(caller, *request, *response); });
  }
  grpc::ServerUnaryReactor* ListSequences(grpc::CallbackServerContext* call,
                                          const v1::ListSequencesRequest* request,
                                          v1::ListSequencesResponse* response) override {
    return Serve(context_, call, "ListSequences", Right::kAttend,
                 [&](const Caller& caller) { return List(caller, *request, *response); });
  }
  grpc::ServerUnaryReactor* SetClientState(grpc::CallbackServerContext* call,
                                           const v1::SetClientStateRequest* request,
                                           v1::SetClientStateResponse* response) override {
    return Serve(context_, call, "SetClientState", Right::kAttend,
                 [&](const Caller& caller) { return SetState(caller, *request, *response); });
  }

 private:
  absl::Status Create(const Caller& caller, const v1::CreateSequenceRequest& request,
                      v1::CreateSequenceResponse& response) {
    ATTND_RETURN_IF_ERROR(RefuseWhileDraining(context_.admission));
    const SessionRef by = AskedBy(request, caller.tenant);
    const CacheId cache = FromProto<CacheId>(request.cache());
    if (!request.has_prefix()) {
      ATTND_ASSIGN_OR_RETURN(const SequenceId sequence,
                             context_.cache.CreateSequence(by, cache, request.client_state()));
      ToProto(sequence, *response.mutable_sequence());
      return absl::OkStatus();
    }
    const std::vector<std::string_view> keys = KeysOf(request.prefix());
    const Prefix prefix{.keys = keys, .num_tokens = TokenCount(request.prefix().num_tokens())};
    ATTND_ASSIGN_OR_RETURN(
        const CreatedSequence created,
        context_.cache.CreateSequence(by, cache, request.client_state(), prefix));
    ToProto(created.sequence, *response.mutable_sequence());
    response.set_matched_tokens(created.matched.value());
    return absl::OkStatus();
  }

  absl::Status Match(const Caller& caller, const v1::MatchPrefixRequest& request,
                     v1::MatchPrefixResponse& response) {
    const std::vector<std::string_view> keys = KeysOf(request);
    ATTND_ASSIGN_OR_RETURN(const TokenCount matched,
                           context_.cache.MatchPrefix(
                               AskedBy(request, caller.tenant), FromProto<CacheId>(request.cache()),
                               {.keys = keys, .num_tokens = TokenCount(request.num_tokens())}));
    response.set_matched_tokens(matched.value());
    return absl::OkStatus();
  }

  absl::Status Describe(const Caller& caller, const v1::DescribeSequenceRequest& request,
                        v1::DescribeSequenceResponse& response) {
    ATTND_ASSIGN_OR_RETURN(SequenceInfo info,
                           context_.cache.Describe(AskedBy(request, caller.tenant),
                                                   FromProto<SequenceId>(request.sequence())));
    ToProto(std::move(info), *response.mutable_sequence());
    return absl::OkStatus();
  }

  absl::Status List(const Caller& caller, const v1::ListSequencesRequest& request,
                    v1::ListSequencesResponse& response) {
    ATTND_ASSIGN_OR_RETURN(std::vector<SequenceInfo> sequences,
                           context_.cache.ListSequences(AskedBy(request, caller.tenant)));
    for (SequenceInfo& info : sequences) ToProto(std::move(info), *response.add_sequences());
    return absl::OkStatus();
  }

  absl::Status SetState(const Caller& caller, const v1::SetClientStateRequest& request,
                        v1::SetClientStateResponse& response) {
    ATTND_ASSIGN_OR_RETURN(
        const uint64_t version,
        context_.cache.SetClientState(AskedBy(request, caller.tenant),
                                      FromProto<SequenceId>(request.sequence()),
                                      request.expected_version(), request.client_state()));
    response.set_version(version);
    return absl::OkStatus();
  }

  // Runs operation(by) behind every item of the sequence that was admitted before, unless `status`
  // is an error or the caller does not hold the sequence: a stranger's call must not wait for it.
  template <typename Request>
  grpc::ServerUnaryReactor* WhenQuiet(grpc::CallbackServerContext* call, const char* method,
                                      const Request& request, absl::Status status,
                                      std::function<absl::Status(SessionRef)> operation) {
    return ServeLater(
        context_, call, method, Right::kAttend, [&](const Caller& caller, const Reply& reply) {
          const SessionRef by = AskedBy(request, caller.tenant);
          const SequenceId sequence = FromProto<SequenceId>(request.sequence());
          if (status.ok()) status = context_.cache.PlaceOf(by, sequence).status();
          if (!status.ok()) return reply.Send(status);
          context_.scheduler.WhenQuiet(sequence, [reply, by, operation = std::move(operation)] {
            reply.Send(operation(by));
          });
        });
  }

  const ServiceContext& context_;
};

grpc::ServerUnaryReactor* SequenceServiceImpl::ForkSequence(grpc::CallbackServerContext* call,
                                                            const v1::ForkSequenceRequest* request,
                                                            v1::ForkSequenceResponse* response) {
  const SequenceId parent = FromProto<SequenceId>(request->sequence());
  absl::Status status = RefuseWhileDraining(context_.admission);
  std::optional<TokenCount> length;
  if (request->has_length()) {
    status.Update(CheckLength(request->length()));
    length = TokenCount(request->length());
  }
  return WhenQuiet(call, "ForkSequence", *request, status,
                   [this, parent, length, response](SessionRef by) -> absl::Status {
                     ATTND_ASSIGN_OR_RETURN(const SequenceId child,
                                            context_.cache.Fork(by, parent, length));
                     ToProto(child, *response->mutable_sequence());
                     return absl::OkStatus();
                   });
}

grpc::ServerUnaryReactor* SequenceServiceImpl::TruncateSequence(
    grpc::CallbackServerContext* call, const v1::TruncateSequenceRequest* request,
    v1::TruncateSequenceResponse*) {
  const SequenceId sequence = FromProto<SequenceId>(request->sequence());
  const TokenCount length(request->length());
  return WhenQuiet(call, "TruncateSequence", *request, CheckLength(request->length()),
                   [this, sequence, length](SessionRef by) {
                     return context_.cache.Truncate(by, sequence, length);
                   });
}

// Changes no page, so a draining daemon takes it.
grpc::ServerUnaryReactor* SequenceServiceImpl::PublishPrefix(
    grpc::CallbackServerContext* call, const v1::PublishPrefixRequest* request,
    v1::PublishPrefixResponse* response) {
  const SequenceId sequence = FromProto<SequenceId>(request->sequence());
  // gRPC keeps the request until the call ends.
  return WhenQuiet(
      call, "PublishPrefix", *request, absl::OkStatus(), [=, this](SessionRef by) -> absl::Status {
        ATTND_ASSIGN_OR_RETURN(
            const PublishedPrefix published,
            context_.cache.PublishPrefix(by, sequence, request->first_page(), KeysOf(*request)));
        response->set_pages(published.pages.value());
        response->set_new_pages(published.added.value());
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* SequenceServiceImpl::FreeSequence(grpc::CallbackServerContext* call,
                                                            const v1::FreeSequenceRequest* request,
                                                            v1::FreeSequenceResponse*) {
  const SequenceId sequence = FromProto<SequenceId>(request->sequence());
  return WhenQuiet(call, "FreeSequence", *request, absl::OkStatus(),
                   [this, sequence](SessionRef by) { return context_.cache.Free(by, sequence); });
}

}  // namespace

std::unique_ptr<grpc::Service> MakeSequenceService(const ServiceContext& context) {
  return std::make_unique<SequenceServiceImpl>(context);
}

}  // namespace attnd
