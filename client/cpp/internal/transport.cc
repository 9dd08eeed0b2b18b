// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/internal/transport.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "client/cpp/internal/address.h"
#include "client/cpp/internal/concat.h"
#include "client/cpp/secret_file.h"
#include "client/cpp/tls_files.h"
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
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  // This one is how long an attempt may take: a TLS handshake is several round trips.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);
  // Local addresses are reached directly.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return arguments;
}

// A bundle of CAs may have old ones in it; one that is good must be there.
absl::Status CheckCa(const std::string& path, const std::string& pem, absl::Time now) {
  ATTND_ASSIGN_OR_RETURN(const std::vector<CertificateInfo> certificates,
                         ParseCertificates("tls_ca", path, pem));
  absl::Status first;
  for (const CertificateInfo& certificate : certificates) {
    absl::Status dates = CheckDates("tls_ca", path, certificate, now);
    if (dates.ok()) return dates;
    if (first.ok()) first = dates;
  }
  return first;
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> TlsOf(const Credentials& credentials) {
  if (credentials.tls_cert.empty() != credentials.tls_key.empty()) {
    return absl::InvalidArgumentError(
        credentials.tls_cert.empty()
            ? Concat("tls_key ", credentials.tls_key, " is given without tls_cert")
            : Concat("tls_cert ", credentials.tls_cert, " is given without tls_key"));
  }
  grpc::SslCredentialsOptions options;
  const absl::Time now = absl::Now();
  if (const std::string& path = credentials.tls_ca; !path.empty()) {
    ATTND_ASSIGN_OR_RETURN(options.pem_root_certs, ReadSmallFile("tls_ca", path));
    ATTND_RETURN_IF_ERROR(CheckCa(path, options.pem_root_certs, now));
  }
  if (const std::string& path = credentials.tls_cert; !path.empty()) {
    ATTND_ASSIGN_OR_RETURN(options.pem_cert_chain, ReadSmallFile("tls_cert", path));
    ATTND_ASSIGN_OR_RETURN(const std::vector<CertificateInfo> chain,
                           ParseCertificates("tls_cert", path, options.pem_cert_chain));
    ATTND_RETURN_IF_ERROR(CheckDates("tls_cert", path, chain.front(), now));
    ATTND_ASSIGN_OR_RETURN(options.pem_private_key, ReadSecretFile("tls_key", credentials.tls_key));
    ATTND_RETURN_IF_ERROR(CheckKey("tls_key", credentials.tls_key, options.pem_private_key, path,
                                   options.pem_cert_chain));
  }
  return grpc::SslCredentials(options);
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const std::string& address,
                                                           const Credentials& credentials) {
  ATTND_RETURN_IF_ERROR(CheckAddress(address));
  grpc::ChannelArguments arguments = ChannelArguments();
  if (IsUnixSocket(address) || !credentials.UsesTls()) {
    if (credentials.HasToken() && !credentials.insecure && !IsUnixSocket(address) &&
        !IsLoopback(address)) {
      return absl::InvalidArgumentError(Concat(
          "address ", address,
          " is not on this machine, and the token would cross the network in "
          "plain text: name the daemon's CA with tls_ca (or say tls), or say insecure if that is "
          "meant"));
    }
    return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  }
  ATTND_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::ChannelCredentials> tls, TlsOf(credentials));
  if (!credentials.tls_server_name.empty()) {
    arguments.SetSslTargetNameOverride(credentials.tls_server_name);
  }
  return grpc::CreateCustomChannel(address, tls, arguments);
}

std::optional<Advice> HandshakeAdvice(std::string_view message, const std::string& address,
                                      const Credentials& credentials) {
  if (IsUnixSocket(address)) return std::nullopt;
  const std::string lower = absl::AsciiStrToLower(std::string(message));
  const auto says = [&lower](const char* text) { return absl::StrContains(lower, text); };
  // Gone before the first frame: a daemon that wants a handshake, or a certificate.
  const bool gone = says("failed to connect") && (says("socket closed") || says("reset by peer"));
  if (!credentials.UsesTls()) {
    if (!gone) return std::nullopt;
    return Advice{"if the daemon speaks TLS, name its CA with tls_ca"};
  }
  if (gone) {
    return Advice{credentials.tls_cert.empty()
                      ? "if the daemon wants mutual TLS, name this client's certificate with "
                        "tls_cert and tls_key"
                      : Concat("if the daemon wants mutual TLS: did its --tls_client_ca sign ",
                               credentials.tls_cert, "?")};
  }
  if (says("certificate has expired")) {
    return Advice{"the daemon's certificate has expired: renew it", true};
  }
  if (says("certificate_verify_failed") || says("certificate verify failed")) {
    return Advice{Concat("the daemon's certificate is not signed by ",
                         credentials.tls_ca.empty() ? std::string("a CA of the system")
                                                    : Concat("tls_ca ", credentials.tls_ca),
                         ", or is not valid now"),
                  true};
  }
  if (says("hostname verification") || says("not in peer certificate")) {
    return Advice{credentials.tls_server_name.empty()
                      ? Concat("the daemon's certificate is not for ", address,
                               ": name whom it is for with tls_server_name")
                      : Concat("the daemon's certificate is not for tls_server_name ",
                               credentials.tls_server_name),
                  true};
  }
  if (says("wrong_version_number") || says("wrong version number")) {
    return Advice{
        "what answers there speaks no TLS: is it the right port, and was attnd started "
        "with --tls_cert?",
        true};
  }
  return std::nullopt;
}

}  // namespace attnd::client
