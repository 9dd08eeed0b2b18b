// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/client.h"

#include <algorithm>
#include <utility>

#include "attnd/v1/session.pb.h"
#include "client/cpp/error_detail.h"
#include "client/cpp/internal/concat.h"
#include "client/cpp/internal/connection.h"
#include "client/cpp/internal/convert.h"
#include "client/cpp/internal/flash_codec.h"
#include "client/cpp/internal/message_reader.h"
#include "client/cpp/internal/methods.h"
#include "client/cpp/internal/state.h"
#include "kernels/base/status_macros.h"

namespace attnd::client {
namespace {

int64_t Milliseconds(Duration duration) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
}

}  // namespace

class Client::Impl {
 public:
  explicit Impl(std::shared_ptr<Connection> c) : connection(std::move(c)) {}

  // The state of a session that was opened or resumed, its lease being renewed.
  template <typename Response>
  std::shared_ptr<SessionState> MakeSession(const Response& response, bool renew_lease);

  const std::shared_ptr<Connection> connection;  // shared with sessions, sequences and streams
};

template <typename Response>
std::shared_ptr<SessionState> Client::Impl::MakeSession(const Response& response,
                                                        bool renew_lease) {
  auto state = std::make_shared<SessionState>();
  state->connection = connection;
  state->id = FromProto(response.session());
  state->token = response.token();
  state->epoch = response.epoch();
  state->lease = std::chrono::milliseconds(response.lease_ms());
  if (!renew_lease) return state;

  v1::RenewLeaseRequest request;
  ToProto(state->id, request.mutable_session());
  request.set_epoch(state->epoch);
  // The session stops its renewer before it lets go of the connection: a plain pointer is enough,
  // and keeps the last reference to it off the timer's thread.
  auto renew = [connection = connection.get(), request](Duration timeout, LeaseRenewer::Done done) {
    connection->Start({.method = kRenewLease,
                       .message = Serialize(request),
                       .guard = nullptr,
                       .repeat = Repeat::kAlways,
                       .options = {.timeout = timeout}},
                      [done = std::move(done)](absl::Status status, const grpc::ByteBuffer& bytes) {
                        v1::RenewLeaseResponse renewed;
                        if (status.ok()) status = MessageReader().Parse(bytes, &renewed);
                        if (!status.ok()) return done(std::move(status));
                        done(Duration(std::chrono::milliseconds(renewed.lease_ms())));
                      });
  };
  state->renewer = LeaseRenewer::Start(connection->shared_timers(), state->lease, std::move(renew));
  return state;
}

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::~Client() = default;

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(const ClientOptions& options) {
  ATTND_ASSIGN_OR_RETURN(std::shared_ptr<Connection> connection, Connection::Open(options));
  v1::GetCapabilitiesResponse response;
  // Not repeated: where nobody listens, the caller should hear so at once.
  const absl::Status status =
      connection->Call(kGetCapabilities, v1::GetCapabilitiesRequest(), &response,
                       Repeat::kOnlyIfRefused, {.timeout = options.connect_timeout});
  if (absl::IsDeadlineExceeded(status)) {
    absl::Status unavailable =
        absl::UnavailableError(Concat("no daemon answered at ", options.address, " within ",
                                      Milliseconds(options.connect_timeout), " ms"));
    MarkChannelError(unavailable);
    return unavailable;
  }
  ATTND_RETURN_IF_ERROR(status);
  connection->capabilities = FromProto(response);
  return std::unique_ptr<Client>(new Client(std::make_unique<Impl>(std::move(connection))));
}

const Capabilities& Client::capabilities() const { return impl_->connection->capabilities; }
const std::string& Client::address() const { return impl_->connection->options().address; }

absl::StatusOr<Cache> Client::OpenCache(std::string_view name, const CacheGeometry& geometry,
                                        int64_t page_quota, const CallOptions& call) {
  v1::OpenCacheRequest request;
  request.set_name(std::string(name));
  ToProto(geometry, request.mutable_geometry());
  request.set_page_quota(page_quota);
  v1::OpenCacheResponse response;
  ATTND_RETURN_IF_ERROR(
      impl_->connection->Call(kOpenCache, request, &response, Repeat::kAlways, call));
  Cache cache{.info = FromProto(response.info()), .created = response.created()};
  cache.info.id = FromProto(response.cache());
  return cache;
}

absl::Status Client::CloseCache(const Id& cache, const CallOptions& call) {
  v1::CloseCacheRequest request;
  ToProto(cache, request.mutable_cache());
  v1::CloseCacheResponse response;
  return impl_->connection->Call(kCloseCache, request, &response, Repeat::kOnlyIfRefused, call);
}

absl::StatusOr<std::vector<CacheInfo>> Client::ListCaches(const CallOptions& call) {
  v1::ListCachesResponse response;
  ATTND_RETURN_IF_ERROR(impl_->connection->Call(kListCaches, v1::ListCachesRequest(), &response,
                                                Repeat::kAlways, call));
  std::vector<CacheInfo> caches;
  for (const v1::CacheInfo& cache : response.caches()) caches.push_back(FromProto(cache));
  return caches;
}

absl::StatusOr<std::unique_ptr<Session>> Client::OpenSession(const OpenSessionOptions& options,
                                                             const CallOptions& call) {
  v1::OpenSessionRequest request;
  request.set_lease_ms(Milliseconds(options.lease));
  request.set_label(options.label);
  request.set_tenant(options.tenant);
  v1::OpenSessionResponse response;
  ATTND_RETURN_IF_ERROR(
      impl_->connection->Call(kOpenSession, request, &response, Repeat::kOnlyIfRefused, call));
  return std::unique_ptr<Session>(new Session(impl_->MakeSession(response, options.renew_lease)));
}

absl::StatusOr<ResumedSession> Client::ResumeSession(std::string_view token,
                                                     const OpenSessionOptions& options,
                                                     const CallOptions& call) {
  // First what may fail harmlessly: a resume shuts the former holder out.
  ATTND_ASSIGN_OR_RETURN(const std::vector<CacheInfo> caches, ListCaches(call));
  v1::ResumeSessionRequest request;
  request.set_token(std::string(token));
  request.set_lease_ms(Milliseconds(options.lease));
  v1::ResumeSessionResponse response;
  ATTND_RETURN_IF_ERROR(
      impl_->connection->Call(kResumeSession, request, &response, Repeat::kAlways, call));

  std::shared_ptr<SessionState> state = impl_->MakeSession(response, options.renew_lease);
  ResumedSession resumed;
  resumed.session = std::unique_ptr<Session>(new Session(state));
  for (const v1::SequenceInfo& proto : response.sequences()) {
    SequenceInfo info = FromProto(proto);
    const auto cache = std::find_if(caches.begin(), caches.end(),
                                    [&info](const CacheInfo& c) { return c.id == info.cache; });
    if (cache == caches.end()) {
      return absl::InternalError(
          Concat("sequence ", info.id.ToString(), " is in a cache that the daemon does not list"));
    }
    auto sequence = std::make_shared<SequenceState>(state, info.id, *cache);
    const size_t layers = std::min(sequence->steps.size(), info.layer_steps.size());
    for (size_t layer = 0; layer < layers; ++layer)
      sequence->steps[layer] = info.layer_steps[layer];
    resumed.sequences.push_back({Sequence(std::move(sequence)), std::move(info)});
  }
  return resumed;
}

absl::StatusOr<FlashAttentionResult> Client::FlashAttention(const FlashAttentionArgs& args,
                                                            const CallOptions& call) {
  ATTND_ASSIGN_OR_RETURN(FlashCodec::Request request, FlashCodec::Encode(args, capabilities()));
  auto [status, bytes] = impl_->connection->CallRaw({.method = kFlashAttention,
                                                     .message = std::move(request.message),
                                                     .guard = request.guard,
                                                     .repeat = Repeat::kAlways,
                                                     .options = call});
  ATTND_RETURN_IF_ERROR(status);
  return FlashCodec::Finish(bytes, request.outputs);
}

void Client::FlashAttentionAsync(const FlashAttentionArgs& args, const CallOptions& call,
                                 std::function<void(absl::StatusOr<FlashAttentionResult>)> done) {
  absl::StatusOr<FlashCodec::Request> request = FlashCodec::Encode(args, capabilities());
  if (!request.ok()) return done(request.status());
  impl_->connection->Start({.method = kFlashAttention,
                            .message = std::move(request->message),
                            .guard = request->guard,
                            .repeat = Repeat::kAlways,
                            .options = call},
                           [outputs = request->outputs, done = std::move(done)](
                               absl::Status status, const grpc::ByteBuffer& bytes) {
                             if (!status.ok()) return done(std::move(status));
                             done(FlashCodec::Finish(bytes, outputs));
                           });
}

absl::StatusOr<Stats> Client::GetStats(const CallOptions& call) {
  v1::GetStatsResponse response;
  ATTND_RETURN_IF_ERROR(
      impl_->connection->Call(kGetStats, v1::GetStatsRequest(), &response, Repeat::kAlways, call));
  return FromProto(response);
}

absl::StatusOr<std::vector<SessionInfo>> Client::ListSessions(const CallOptions& call) {
  v1::ListSessionsResponse response;
  ATTND_RETURN_IF_ERROR(impl_->connection->Call(kListSessions, v1::ListSessionsRequest(), &response,
                                                Repeat::kAlways, call));
  std::vector<SessionInfo> sessions;
  for (const v1::SessionInfo& session : response.sessions()) {
    sessions.push_back(FromProto(session));
  }
  return sessions;
}

absl::StatusOr<DrainResult> Client::Drain(Duration timeout, const CallOptions& call) {
  v1::DrainRequest request;
  request.set_timeout_ms(Milliseconds(timeout));
  v1::DrainResponse response;
  ATTND_RETURN_IF_ERROR(impl_->connection->Call(kDrain, request, &response, Repeat::kAlways, call));
  return DrainResult{.complete = response.complete(),
                     .remaining_items = response.remaining_items()};
}

absl::StatusOr<IntegrityReport> Client::CheckIntegrity(const CallOptions& call) {
  v1::CheckIntegrityResponse response;
  ATTND_RETURN_IF_ERROR(impl_->connection->Call(kCheckIntegrity, v1::CheckIntegrityRequest(),
                                                &response, Repeat::kAlways, call));
  return IntegrityReport{.pages_checked = response.pages_checked(),
                         .sequences_checked = response.sequences_checked()};
}

absl::StatusOr<LogLevels> Client::SetLogLevel(std::string_view level, const CallOptions& call) {
  v1::SetLogLevelRequest request;
  request.set_level(std::string(level));
  v1::SetLogLevelResponse response;
  ATTND_RETURN_IF_ERROR(
      impl_->connection->Call(kSetLogLevel, request, &response, Repeat::kAlways, call));
  return LogLevels{.former = response.former(), .level = response.level()};
}

}  // namespace attnd::client
