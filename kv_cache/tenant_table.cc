// SPDX-License-Identifier: Apache-2.0
#include "kv_cache/tenant_table.h"

#include <limits>

#include "absl/strings/str_format.h"
#include "kv_cache/error_detail.h"
#include "kv_cache/geometry.h"

namespace attnd {

void Tenant::Set(std::string_view name, const TenantLimits& limits) {
  info_.name = std::string(name);
  info_.limits = limits;
}

TenantInfo Tenant::Info() const {
  TenantInfo info = info_;
  info.kv_bytes = Bytes(static_cast<uint64_t>(superblocks_) * kSuperblockBytes.value());
  return info;
}

absl::Status Tenant::CheckRoom(const char* what, int64_t held, int64_t limit, const char* remedy,
                               uint64_t& refused) const {
  if (limit == 0 || held < limit) return absl::OkStatus();
  ++refused;
  return AttachErrorDetail(
      absl::ResourceExhaustedError(absl::StrFormat("tenant '%s' has %d %s of at most %d; %s",
                                                   info_.name, held, what, limit, remedy)),
      {.reason = ErrorReason::kTenantLimit});
}

absl::Status Tenant::CheckRoomForCache() {
  return CheckRoom("caches", info_.caches, info_.limits.caches, "closing one makes room",
                   info_.refused_caches);
}

absl::Status Tenant::CheckRoomForSession() {
  return CheckRoom("sessions", info_.sessions, info_.limits.sessions,
                   "closing one, or the end of its lease, makes room", info_.refused_sessions);
}

absl::Status Tenant::CheckRoomForSequence() {
  return CheckRoom("sequences", info_.sequences, info_.limits.sequences, "freeing one makes room",
                   info_.refused_sequences);
}

int64_t Tenant::superblocks_limit() const {
  if (info_.limits.kv_bytes == Bytes(0)) return std::numeric_limits<int64_t>::max();
  return static_cast<int64_t>(info_.limits.kv_bytes.value() / kSuperblockBytes.value());
}

std::string Tenant::DescribeKvLimit() const {
  if (info_.limits.kv_bytes == Bytes(0)) return "";
  return absl::StrFormat("the %d MiB of tenant '%s'", info_.limits.kv_bytes.value() >> 20,
                         info_.name);
}

Tenant& TenantTable::At(TenantIndex index) {
  while (tenants_.size() <= index.value()) {
    tenants_.emplace_back(TenantIndex(static_cast<uint32_t>(tenants_.size())));
  }
  return tenants_[index.value()];
}

}  // namespace attnd
