// SPDX-License-Identifier: Apache-2.0
//
// TLS for listeners: what gRPC shows to clients, and asks of them, follows the files it came from.
//
// gRPC's own watcher would take whatever the files hold, half-written or expired. So it watches
// sealed-off memory instead, into which only what ReadTls found good is written: a bad change is an
// error of Reload, and the former certificate goes on. New handshakes see a change within about a
// second; connections that stand keep what they have.
//
// Thread-safe. Outlives the listeners that use it.
//
//   ATTND_ASSIGN_OR_RETURN(auto tls, TlsCredentials::Create(files));
//   builder.AddListeningPort(address, tls->ForListener(tenants, count), &port);
#pragma once

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>

#include <array>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/mutex.h"
#include "server/security/certificates.h"
#include "server/security/file_version.h"
#include "server/security/tenant_registry.h"

namespace attnd {

class TlsCredentials {
 public:
  static absl::StatusOr<std::unique_ptr<TlsCredentials>> Create(const TlsFiles& files);
  ~TlsCredentials();

  // Refuses calls without a good token before their message is received, where `tenants` tells
  // callers apart, and calls `on_refused`; the health service is for everybody. `tenants` outlives
  // the listener.
  std::shared_ptr<grpc::ServerCredentials> ForListener(const TenantRegistry& tenants,
                                                       std::function<void()> on_refused) const;

  // True where a file has changed since it was read last, well or not.
  bool Changed() const ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status Reload() ABSL_LOCKS_EXCLUDED(mu_);

  std::string subject() const ABSL_LOCKS_EXCLUDED(mu_);
  WallTime expires() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  explicit TlsCredentials(const TlsFiles& files) : files_(files) {}

  using Versions = std::array<FileVersion, 3>;
  Versions VersionsNow() const;
  absl::Status OpenMemory();

  const TlsFiles files_;
  int identity_fd_ = -1, client_ca_fd_ = -1;
  std::shared_ptr<grpc::experimental::CertificateProviderInterface> provider_;
  mutable Mutex mu_;
  Versions read_ ABSL_GUARDED_BY(mu_);
  std::string subject_ ABSL_GUARDED_BY(mu_);
  WallTime expires_ ABSL_GUARDED_BY(mu_);
};

}  // namespace attnd
