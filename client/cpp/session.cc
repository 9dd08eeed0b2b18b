// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/session.h"

#include <utility>

#include "attnd/v1/session.pb.h"
#include "client/cpp/client.h"
#include "client/cpp/internal/attend_codec.h"
#include "client/cpp/internal/connection.h"
#include "client/cpp/internal/convert.h"
#include "client/cpp/internal/methods.h"
#include "client/cpp/internal/state.h"
#include "kernels/base/status_macros.h"

namespace attnd::client {

Session::Session(std::shared_ptr<SessionState> state) : state_(std::move(state)) {}

Session::~Session() {
  if (state_->renewer != nullptr) state_->renewer->Stop();
}

const Id& Session::id() const { return state_->id; }
const std::string& Session::token() const { return state_->token; }
uint64_t Session::epoch() const { return state_->epoch; }

absl::Status Session::lease_status() const {
  return state_->renewer == nullptr ? absl::OkStatus() : state_->renewer->status();
}

absl::StatusOr<Sequence> Session::CreateSequence(const Cache& cache, std::string_view client_state,
                                                 const CallOptions& call) {
  return Create(cache, /*prefix=*/nullptr, client_state, call);
}

absl::StatusOr<Sequence> Session::CreateSequence(const Cache& cache, const Prefix& prefix,
                                                 std::string_view client_state,
                                                 const CallOptions& call) {
  return Create(cache, &prefix, client_state, call);
}

absl::StatusOr<Sequence> Session::Create(const Cache& cache, const Prefix* prefix,
                                         std::string_view client_state, const CallOptions& call) {
  v1::CreateSequenceRequest request;
  ToProto(state_->id, request.mutable_session());
  request.set_epoch(state_->epoch);
  ToProto(cache.info.id, request.mutable_cache());
  request.set_client_state(std::string(client_state));
  if (prefix != nullptr) {
    request.mutable_prefix()->mutable_keys()->Add(prefix->keys.begin(), prefix->keys.end());
    request.mutable_prefix()->set_num_tokens(prefix->num_tokens);
  }
  v1::CreateSequenceResponse response;
  ATTND_RETURN_IF_ERROR(
      state_->connection->Call(kCreateSequence, request, &response, Repeat::kOnlyIfRefused, call));
  return Sequence(std::make_shared<SequenceState>(state_, FromProto(response.sequence()),
                                                  cache.info, response.matched_tokens()));
}

absl::StatusOr<int64_t> Session::MatchPrefix(const Cache& cache, const Prefix& prefix,
                                             const CallOptions& call) {
  v1::MatchPrefixRequest request;
  ToProto(state_->id, request.mutable_session());
  request.set_epoch(state_->epoch);
  ToProto(cache.info.id, request.mutable_cache());
  request.mutable_keys()->Add(prefix.keys.begin(), prefix.keys.end());
  request.set_num_tokens(prefix.num_tokens);
  v1::MatchPrefixResponse response;
  ATTND_RETURN_IF_ERROR(
      state_->connection->Call(kMatchPrefix, request, &response, Repeat::kAlways, call));
  return response.matched_tokens();
}

absl::StatusOr<std::vector<SequenceInfo>> Session::ListSequences(const CallOptions& call) {
  v1::ListSequencesRequest request;
  ToProto(state_->id, request.mutable_session());
  request.set_epoch(state_->epoch);
  v1::ListSequencesResponse response;
  ATTND_RETURN_IF_ERROR(
      state_->connection->Call(kListSequences, request, &response, Repeat::kAlways, call));
  std::vector<SequenceInfo> sequences;
  for (const v1::SequenceInfo& sequence : response.sequences()) {
    sequences.push_back(FromProto(sequence));
  }
  return sequences;
}

absl::StatusOr<AttendResult> Session::Attend(std::span<const AttendItem> items,
                                             const CallOptions& call) {
  ATTND_ASSIGN_OR_RETURN(AttendCodec::Request request,
                         AttendCodec::Encode(*state_, items, /*request_id=*/0));
  auto [status, bytes] = state_->connection->CallRaw({.method = kAttend,
                                                      .message = std::move(request.message),
                                                      .guard = request.guard,
                                                      .repeat = Repeat::kAlways,
                                                      .options = call});
  ATTND_RETURN_IF_ERROR(status);
  ATTND_ASSIGN_OR_RETURN(AttendCodec::Response response, AttendCodec::Parse(bytes));
  return AttendCodec::Finish(std::move(response), request.outputs);
}

void Session::AttendAsync(std::span<const AttendItem> items, const CallOptions& call,
                          AttendCallback done) {
  absl::StatusOr<AttendCodec::Request> request =
      AttendCodec::Encode(*state_, items, /*request_id=*/0);
  if (!request.ok()) return done(request.status());
  state_->connection->Start({.method = kAttend,
                             .message = std::move(request->message),
                             .guard = request->guard,
                             .repeat = Repeat::kAlways,
                             .options = call},
                            [outputs = std::move(request->outputs), done = std::move(done)](
                                absl::Status status, const grpc::ByteBuffer& bytes) {
                              if (!status.ok()) return done(std::move(status));
                              absl::StatusOr<AttendCodec::Response> response =
                                  AttendCodec::Parse(bytes);
                              if (!response.ok()) return done(response.status());
                              done(AttendCodec::Finish(*std::move(response), outputs));
                            });
}

absl::StatusOr<Duration> Session::RenewLease(const CallOptions& call) {
  v1::RenewLeaseRequest request;
  ToProto(state_->id, request.mutable_session());
  request.set_epoch(state_->epoch);
  v1::RenewLeaseResponse response;
  ATTND_RETURN_IF_ERROR(
      state_->connection->Call(kRenewLease, request, &response, Repeat::kAlways, call));
  return Duration(std::chrono::milliseconds(response.lease_ms()));
}

absl::Status Session::Close(const CallOptions& call) {
  if (state_->renewer != nullptr) state_->renewer->Stop();
  v1::CloseSessionRequest request;
  ToProto(state_->id, request.mutable_session());
  request.set_epoch(state_->epoch);
  v1::CloseSessionResponse response;
  return state_->connection->Call(kCloseSession, request, &response, Repeat::kOnlyIfRefused, call);
}

}  // namespace attnd::client
