// SPDX-License-Identifier: Apache-2.0
#include "server/security/tenant_registry.h"

#include <openssl/crypto.h>

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/base/status_macros.h"
#include "kv_cache/geometry.h"

namespace attnd {
namespace {

// Of those that have come and gone as well.
constexpr size_t kMaxNames = 1024;

const std::string& NoName() {
  static const std::string name;
  return name;
}

absl::string_view Name(Right right) {
  switch (right) {
    case Right::kAttend:
      return "use attention and caches";
    case Right::kObserve:
      return "see figures";
    case Right::kOperate:
      return "operate the daemon";
  }
  return "";
}

bool Has(Role role, Right right) {
  switch (role) {
    case Role::kTenant:
      return right == Right::kAttend || right == Right::kObserve;
    case Role::kMonitor:
      return right == Right::kObserve;
    case Role::kAdmin:
      return right == Right::kObserve || right == Right::kOperate;
  }
  return false;
}

}  // namespace

absl::Status Require(const Caller& caller, Right right) {
  if (!caller.role || Has(*caller.role, right)) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrCat("the token of \"", *caller.name,
                                                  "\" has the role ", Name(*caller.role),
                                                  ", which may not ", Name(right)));
}

TenantRegistry::TenantRegistry(std::string path) : path_(std::move(path)) {}

absl::Status TenantRegistry::Load() {
  if (!enabled()) return absl::OkStatus();
  {
    // Before it is read: a change in between is seen the next time.
    MutexLock lock(mu_);
    read_ = FileVersion::Of(path_);
  }
  const auto in_flag = [](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat("--tenants_file ", status.message()));
  };
  absl::StatusOr<std::string> text = ReadSecretFile(path_);
  if (!text.ok()) return in_flag(text.status());
  absl::StatusOr<std::vector<TenantSpec>> specs = ParseTenants(*text, path_);
  OPENSSL_cleanse(text->data(), text->size());
  if (!specs.ok()) return in_flag(specs.status());

  MutexLock lock(mu_);
  size_t num_names = indexes_.size();
  for (const TenantSpec& spec : *specs) num_names += 1 - indexes_.count(spec.name);
  if (num_names > kMaxNames) {
    return in_flag(absl::InvalidArgumentError(absl::StrCat(
        "\"", path_, "\": more than ", kMaxNames, " names since the daemon's start: restart it")));
  }
  entries_.clear();
  for (TenantSpec& spec : *specs) {
    // 0 is everybody, where callers are not told apart.
    const TenantIndex next(static_cast<uint32_t>(indexes_.size() + 1));
    entries_.push_back(
        {.tenant = indexes_.try_emplace(spec.name, next).first->second, .spec = std::move(spec)});
  }
  ++version_;
  return absl::OkStatus();
}

bool TenantRegistry::Changed() const {
  if (!enabled()) return false;
  const FileVersion now = FileVersion::Of(path_);
  MutexLock lock(mu_);
  return now != read_;
}

absl::StatusOr<Caller> TenantRegistry::Authenticate(
    std::optional<absl::string_view> authorization) const {
  if (!enabled()) return Caller{.name = &NoName()};
  constexpr absl::string_view kScheme = "Bearer ";
  if (!authorization) {
    return absl::UnauthenticatedError(
        "the call has no token; expected the metadata \"authorization: Bearer TOKEN\"");
  }
  if (!absl::StartsWithIgnoreCase(*authorization, kScheme)) {
    return absl::UnauthenticatedError(
        "the metadata \"authorization\" is malformed; expected \"Bearer TOKEN\"");
  }
  const Sha256 token = HashSecret(authorization->substr(kScheme.size()));
  MutexLock lock(mu_);
  return Find(token);
}

absl::Status TenantRegistry::Revalidate(Caller& caller) const {
  if (!enabled()) return absl::OkStatus();
  MutexLock lock(mu_);
  if (caller.version == version_) return absl::OkStatus();
  ATTND_ASSIGN_OR_RETURN(caller, Find(caller.token));
  return absl::OkStatus();
}

absl::StatusOr<Caller> TenantRegistry::Find(const Sha256& token) const {
  const Entry* found = nullptr;
  for (const Entry& entry : entries_) {
    for (const Sha256& known : entry.spec.tokens) {
      if (CRYPTO_memcmp(known.data(), token.data(), token.size()) == 0) found = &entry;
    }
  }
  if (found == nullptr) {
    return absl::UnauthenticatedError("the bearer token is not one of this daemon's tenants'");
  }
  return Caller{.tenant = found->tenant,
                .role = found->spec.role,
                .name = &indexes_.find(found->spec.name)->first,
                .token = token,
                .version = version_};
}

std::vector<TenantRegistry::Entry> TenantRegistry::Entries() const {
  MutexLock lock(mu_);
  return entries_;
}

TenantShare ShareOf(const TenantSpec& spec, const TenantShare& whole, int64_t num_tenants) {
  const auto share = [&](int64_t own, int64_t all) {
    return own > 0 ? own : std::max<int64_t>(all / num_tenants, 1);
  };
  const auto bytes = [&](Bytes own, Bytes all, uint64_t unit) {
    if (own > Bytes(0)) return own;
    return Bytes(std::max(all.value() / static_cast<uint64_t>(num_tenants) / unit * unit, unit));
  };
  return {.kv_bytes = bytes(spec.share.kv_bytes, whole.kv_bytes, kSuperblockBytes.value()),
          .staging_bytes = bytes(spec.share.staging_bytes, whole.staging_bytes, 1),
          .caches = share(spec.share.caches, whole.caches),
          .sessions = share(spec.share.sessions, whole.sessions),
          .sequences = share(spec.share.sequences, whole.sequences),
          .queued_requests = share(spec.share.queued_requests, whole.queued_requests),
          .queued_items = share(spec.share.queued_items, whole.queued_items),
          .queued_tokens = share(spec.share.queued_tokens, whole.queued_tokens)};
}

}  // namespace attnd
