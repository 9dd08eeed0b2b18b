// SPDX-License-Identifier: Apache-2.0
#include "server/rpc/listener.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/resource_quota.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstring>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "attnd/v1/admin.grpc.pb.h"
#include "attnd/v1/attention.grpc.pb.h"
#include "attnd/v1/cache.grpc.pb.h"
#include "attnd/v1/sequence.grpc.pb.h"
#include "attnd/v1/session.grpc.pb.h"
#include "kernels/base/status_macros.h"
#include "server/rpc/listen_address.h"
#include "server/rpc/services.h"

namespace attnd {
namespace {

constexpr mode_t kOwnerOnly = 0177;  // the bits that a new socket does not get

// Linking gRPC's reflection library puts its plugin into every server of the process; this takes it
// out of one again.
class NoReflection final : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    const std::string name = grpc::reflection::ProtoServerReflectionPlugin().name();
    std::erase_if(*plugins, [&](const auto& plugin) { return plugin->name() == name; });
  }
};

absl::Status InvalidSocket(const std::string& path, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("Unix socket \"", path, "\": ", what));
}

// Whether somebody accepts connections on a Unix socket.
absl::StatusOr<bool> SomebodyListens(const std::string& path) {
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  std::memcpy(name.sun_path, path.data(), path.size());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return absl::InternalError(absl::StrCat("socket: ", strerror(errno)));
  const absl::Cleanup close_fd = [fd] { close(fd); };
  if (connect(fd, reinterpret_cast<const sockaddr*>(&name), sizeof(name)) == 0) return true;
  // Refused: nobody holds it. Anything else, such as a full backlog, means that somebody does.
  return errno != ECONNREFUSED;
}

// Makes way for a new socket. gRPC itself would unlink whatever is there, a live daemon's too.
absl::Status ClearUnixPath(const std::string& path) {
  if (path.size() >= sizeof(sockaddr_un::sun_path)) {
    return InvalidSocket(path, absl::StrCat("the path has ", path.size(), " bytes, at most ",
                                            sizeof(sockaddr_un::sun_path) - 1, " fit"));
  }
  struct stat status {};
  if (lstat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return InvalidSocket(path, strerror(errno));
  }
  if (!S_ISSOCK(status.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat("\"", path, "\" exists and is not a socket: not replacing it"));
  }
  ATTND_ASSIGN_OR_RETURN(const bool in_use, SomebodyListens(path));
  if (in_use) {
    return absl::FailedPreconditionError(
        absl::StrCat("\"", path, "\" is in use: another process listens on it"));
  }
  if (unlink(path.c_str()) != 0 && errno != ENOENT) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot replace the stale socket \"", path, "\": ", strerror(errno)));
  }
  return absl::OkStatus();
}

void Configure(const ListenerOptions& options, const std::string& address, bool reflection,
               grpc::ServerBuilder& builder) {
  // Twice our own limit: what lies between gets an error with details from us, and no message is
  // buffered beyond that.
  const uint64_t receive_limit = std::min<uint64_t>(2 * options.max_message_bytes.value(), INT_MAX);
  builder.SetMaxReceiveMessageSize(static_cast<int>(receive_limit));
  builder.SetMaxSendMessageSize(-1);
  grpc::ResourceQuota quota(absl::StrCat("attnd ", address));
  quota.Resize(options.buffer_limit.value());
  builder.SetResourceQuota(quota);
  // A compressed message grows in memory before anyone can refuse it, and tensors do not compress.
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  // Clients may ask every ten seconds whether we are still there, calls or none.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  // Tensors come in frames of 16 KiB unless told otherwise; a small call waits for one at most.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, 1 << 20);
  // Two daemons on one port would share its connections silently.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // The synchronous API serves nothing but reflection.
  builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
  builder.SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, 1);
  if (!reflection) builder.SetOption(std::make_unique<NoReflection>());
}

}  // namespace

absl::StatusOr<std::unique_ptr<Listener>> Listener::Start(const std::string& address,
                                                          const ListenerOptions& options,
                                                          const ServiceContext& context) {
  ATTND_ASSIGN_OR_RETURN(const ListenAddress parsed, ParseListenAddress(address));
  const bool with_tls = options.tls != nullptr && !parsed.is_unix;
  ATTND_RETURN_IF_ERROR(
      CheckPlainTextAllowed(parsed, options.insecure || with_tls, kPlainTextListen));
  if (parsed.is_unix) ATTND_RETURN_IF_ERROR(ClearUnixPath(parsed.path));

  grpc::EnableDefaultHealthCheckService(true);
  std::unique_ptr<Listener> listener(new Listener());
  listener->services_ = MakeServices(context);
  grpc::ServerBuilder builder;
  Configure(options, address, options.reflection && IsLoopback(parsed), builder);
  for (const std::unique_ptr<grpc::Service>& service : listener->services_) {
    builder.RegisterService(service.get());
  }
  int port = 0;
  Metrics& metrics = context.metrics;
  builder.AddListeningPort(
      DialString(parsed, parsed.port),
      with_tls ? options.tls->ForListener(context.tenants,
                                          [&metrics] { metrics.RecordUnauthenticated(); })
               : grpc::InsecureServerCredentials(),
      &port);
  // The socket is never open to others, not even between bind and a chmod. The mask is the
  // process's, so that a file made by another thread just now is the owner's alone, too.
  const mode_t old_mask = parsed.is_unix ? umask(kOwnerOnly) : mode_t{0};
  listener->server_ = builder.BuildAndStart();
  if (parsed.is_unix) umask(old_mask);
  if (listener->server_ == nullptr || (!parsed.is_unix && port == 0)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "cannot listen on \"", address, "\": is the address in use, or not one of this machine?"));
  }
  listener->address_ = DialString(parsed, port);
  return listener;
}

Listener::~Listener() { Shutdown(Duration::zero()); }

void Listener::SetServing(bool serving) {
  grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
  health->SetServingStatus(serving);
  for (const char* service :
       {v1::AdminService::service_full_name(), v1::AttentionService::service_full_name(),
        v1::CacheService::service_full_name(), v1::SequenceService::service_full_name(),
        v1::SessionService::service_full_name()}) {
    health->SetServingStatus(service, serving);
  }
}

void Listener::Shutdown(Duration grace) {
  if (server_ == nullptr) return;
  const auto deadline = std::chrono::system_clock::now() + grace;
  server_->Shutdown(std::chrono::time_point_cast<std::chrono::system_clock::duration>(deadline));
  server_->Wait();
}

}  // namespace attnd
