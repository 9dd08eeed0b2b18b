// SPDX-License-Identifier: Apache-2.0
#include "server/security_state.h"

#include <algorithm>
#include <chrono>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "kernels/base/status_macros.h"
#include "server/rpc/listen_address.h"
#include "spdlog/spdlog.h"

namespace attnd {
namespace {

bool IsLoopbackAddress(const std::string& address) {
  const absl::StatusOr<ListenAddress> parsed = ParseListenAddress(address);
  return parsed.ok() && IsLoopback(*parsed);
}

void LogCertificate(const TlsCredentials& tls) {
  spdlog::info(
      "TLS: certificate of {}, valid until {}", tls.subject(),
      absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::FromChrono(tls.expires()), absl::UTCTimeZone()));
}

// Said once for each change.
void LogReload(const char* what, const absl::Status& status) {
  if (status.ok()) {
    spdlog::info("{}: read again", what);
  } else {
    spdlog::error("{}: not read again, the former go on: {}", what, std::string(status.message()));
  }
}

}  // namespace

SecurityState::SecurityState(const Options& options, Metrics& metrics)
    : options_(options), metrics_(metrics), tenants_(options.tenants_file) {}

absl::Status SecurityState::Load() {
  ATTND_RETURN_IF_ERROR(tenants_.Load());
  if (tenants_.enabled()) {
    spdlog::info("tenants: {} in {}", tenants_.Entries().size(), options_.tenants_file);
  }
  if (!options_.tls_cert.empty()) {
    ATTND_ASSIGN_OR_RETURN(tls_, TlsCredentials::Create({.cert = options_.tls_cert,
                                                         .key = options_.tls_key,
                                                         .client_ca = options_.tls_client_ca}));
    LogCertificate(*tls_);
  }
  WarnOfOpenListeners();
  return absl::OkStatus();
}

void SecurityState::WarnOfOpenListeners() const {
  if (tenants_.enabled()) return;
  for (const std::string& address : options_.listen) {
    if (IsLoopbackAddress(address) || !options_.tls_client_ca.empty()) continue;
    spdlog::warn(
        "{} is for whoever can reach it: neither --tenants_file nor --tls_client_ca says who may "
        "call",
        address);
  }
}

bool SecurityState::ReloadIfChanged() {
  bool new_tenants = false;
  if (tenants_.Changed()) {
    const absl::Status status = tenants_.Load();
    new_tenants = status.ok();
    metrics_.RecordReload(Reload::kTenants, status.ok());
    LogReload("tenants", status);
  }
  if (tls_ != nullptr && tls_->Changed()) {
    const absl::Status status = tls_->Reload();
    metrics_.RecordReload(Reload::kTls, status.ok());
    LogReload("tls", status);
    if (status.ok()) LogCertificate(*tls_);
  }
  return new_tenants;
}

bool SecurityState::guards_metrics() const {
  return tenants_.enabled() && !IsLoopbackAddress(options_.metrics_listen);
}

absl::Status SecurityState::AuthorizeMetrics(std::optional<std::string_view> authorization) const {
  std::optional<absl::string_view> header;
  if (authorization) header = absl::string_view(authorization->data(), authorization->size());
  const absl::StatusOr<Caller> caller = tenants_.Authenticate(header);
  if (!caller.ok()) {
    metrics_.RecordUnauthenticated();
    return caller.status();
  }
  ATTND_RETURN_IF_ERROR(Require(*caller, Right::kObserve));
  if (caller->sees_all()) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrCat("the token of \"", *caller->name,
                   "\" has the role tenant, and these figures are everybody's: a monitor's or an "
                   "admin's token is expected"));
}

std::vector<TenantLimitsOf> SharesOf(const TenantRegistry& tenants, const TenantShare& whole) {
  const std::vector<TenantRegistry::Entry> entries = tenants.Entries();
  const auto attends = [](const TenantRegistry::Entry& entry) {
    return entry.spec.role == Role::kTenant;
  };
  const auto num_tenants = std::count_if(entries.begin(), entries.end(), attends);
  std::vector<TenantLimitsOf> shares;
  for (const TenantRegistry::Entry& entry : entries) {
    if (!attends(entry)) continue;
    shares.push_back({.tenant = entry.tenant,
                      .name = entry.spec.name,
                      .share = ShareOf(entry.spec, whole, num_tenants)});
  }
  return shares;
}

}  // namespace attnd
