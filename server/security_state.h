// SPDX-License-Identifier: Apache-2.0
//
// Who may call the daemon and what it shows for itself: the tenants and the certificates of the
// options, read at the start and again when their files change.
//
// A bad file is an error at the start, and a line in the log and a count later on, when the former
// ones go on. Thread-safe but for Load, which comes first.
//
//   SecurityState security(options, metrics);
//   ATTND_RETURN_IF_ERROR(security.Load());
//   if (security.ReloadIfChanged()) ApplyTenants();
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "server/observe/metrics.h"
#include "server/options.h"
#include "server/rpc/tls_credentials.h"
#include "server/security/tenant_registry.h"

namespace attnd {

class SecurityState {
 public:
  // Borrows both.
  SecurityState(const Options& options, Metrics& metrics);

  absl::Status Load();
  // True where there are other tenants, or others' limits, than before.
  bool ReloadIfChanged();

  const TenantRegistry& tenants() const { return tenants_; }
  const TlsCredentials* tls() const { return tls_.get(); }  // null: no TLS

  // Whether the metrics port is for those alone whom AuthorizeMetrics lets in.
  bool guards_metrics() const;
  // By the request's Authorization header: a monitor or an admin.
  absl::Status AuthorizeMetrics(std::optional<std::string_view> authorization) const;

 private:
  void WarnOfOpenListeners() const;

  const Options& options_;
  Metrics& metrics_;
  TenantRegistry tenants_;
  std::unique_ptr<TlsCredentials> tls_;
};

// Of the daemon's `whole`, what each tenant may hold at most.
struct TenantLimitsOf {
  TenantIndex tenant;
  std::string name;
  TenantShare share;
};
std::vector<TenantLimitsOf> SharesOf(const TenantRegistry& tenants, const TenantShare& whole);

}  // namespace attnd
