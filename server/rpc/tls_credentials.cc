// SPDX-License-Identifier: Apache-2.0
#include "server/rpc/tls_credentials.h"

#include <openssl/crypto.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace attnd {
namespace {

constexpr unsigned int kWatchSeconds = 1;

std::string PathOf(int fd) { return absl::StrCat("/proc/self/fd/", fd); }

absl::Status Failed(absl::string_view what) {
  return absl::InternalError(absl::StrCat(what, ": ", strerror(errno)));
}

// gRPC's watcher takes a file only where it did not change while it was read.
absl::Status Replace(int fd, const std::string& content) {
  if (ftruncate(fd, 0) != 0) return Failed("ftruncate of a memory file");
  const ssize_t written = pwrite(fd, content.data(), content.size(), 0);
  if (written != static_cast<ssize_t>(content.size())) return Failed("write to a memory file");
  return absl::OkStatus();
}

// Runs on the initial metadata of each call, before gRPC reads its message.
class TokenCheck final : public grpc::AuthMetadataProcessor {
 public:
  TokenCheck(const TenantRegistry& tenants, std::function<void()> on_refused)
      : tenants_(tenants), on_refused_(std::move(on_refused)) {}

  bool IsBlocking() const override { return false; }
  grpc::Status Process(const InputMetadata& metadata, grpc::AuthContext*, OutputMetadata*,
                       OutputMetadata*) override {
    if (const auto path = metadata.find(":path"); path != metadata.end()) {
      const absl::string_view method(path->second.data(), path->second.size());
      if (absl::StartsWith(method, "/grpc.health.v1.Health/")) return grpc::Status::OK;
    }
    std::optional<absl::string_view> header;
    if (const auto found = metadata.find("authorization"); found != metadata.end()) {
      header = absl::string_view(found->second.data(), found->second.size());
    }
    const absl::Status status = tenants_.Authenticate(header).status();
    if (status.ok()) return grpc::Status::OK;
    on_refused_();
    return grpc::Status(grpc::StatusCode::UNAUTHENTICATED, std::string(status.message()));
  }

 private:
  const TenantRegistry& tenants_;
  const std::function<void()> on_refused_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TlsCredentials>> TlsCredentials::Create(const TlsFiles& files) {
  std::unique_ptr<TlsCredentials> tls(new TlsCredentials(files));
  ATTND_RETURN_IF_ERROR(tls->OpenMemory());
  ATTND_RETURN_IF_ERROR(tls->Reload());
  const std::string identity = PathOf(tls->identity_fd_);
  tls->provider_ = std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
      identity, identity, files.client_ca.empty() ? "" : PathOf(tls->client_ca_fd_), kWatchSeconds);
  return tls;
}

TlsCredentials::~TlsCredentials() {
  provider_.reset();  // its thread reads them
  if (identity_fd_ >= 0) close(identity_fd_);
  if (client_ca_fd_ >= 0) close(client_ca_fd_);
}

absl::Status TlsCredentials::OpenMemory() {
  identity_fd_ = memfd_create("attnd-tls-identity", MFD_CLOEXEC);
  client_ca_fd_ = memfd_create("attnd-tls-client-ca", MFD_CLOEXEC);
  if (identity_fd_ < 0 || client_ca_fd_ < 0) return Failed("memfd_create for TLS");
  return absl::OkStatus();
}

std::shared_ptr<grpc::ServerCredentials> TlsCredentials::ForListener(
    const TenantRegistry& tenants, std::function<void()> on_refused) const {
  grpc::experimental::TlsServerCredentialsOptions options(provider_);
  options.watch_identity_key_cert_pairs();
  if (!files_.client_ca.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  std::shared_ptr<grpc::ServerCredentials> credentials =
      grpc::experimental::TlsServerCredentials(options);
  if (tenants.enabled()) {
    credentials->SetAuthMetadataProcessor(
        std::make_shared<TokenCheck>(tenants, std::move(on_refused)));
  }
  return credentials;
}

TlsCredentials::Versions TlsCredentials::VersionsNow() const {
  return {FileVersion::Of(files_.cert), FileVersion::Of(files_.key),
          files_.client_ca.empty() ? FileVersion() : FileVersion::Of(files_.client_ca)};
}

bool TlsCredentials::Changed() const {
  const Versions now = VersionsNow();
  MutexLock lock(mu_);
  return now != read_;
}

absl::Status TlsCredentials::Reload() {
  const Versions now = VersionsNow();
  {
    MutexLock lock(mu_);
    read_ = now;
  }
  ATTND_ASSIGN_OR_RETURN(TlsMaterial material, ReadTls(files_, std::chrono::system_clock::now()));
  const absl::Status written = Replace(identity_fd_, material.identity_pem);
  OPENSSL_cleanse(material.identity_pem.data(), material.identity_pem.size());
  ATTND_RETURN_IF_ERROR(written);
  ATTND_RETURN_IF_ERROR(Replace(client_ca_fd_, material.client_ca_pem));
  MutexLock lock(mu_);
  subject_ = material.subject;
  expires_ = material.expires;
  return absl::OkStatus();
}

std::string TlsCredentials::subject() const {
  MutexLock lock(mu_);
  return subject_;
}

WallTime TlsCredentials::expires() const {
  MutexLock lock(mu_);
  return expires_;
}

}  // namespace attnd
