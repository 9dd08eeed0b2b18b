// SPDX-License-Identifier: Apache-2.0
//
// Tenants: whose objects are whose, and how much of the daemon each may hold.
//
// Tenant 0 is the only one where callers are not told apart; it has no name and no limits but the
// daemon's. A tenant is never taken away: its index stands in its caches and sessions. Limits that
// fall below what is held stop growth and take nothing away. Not thread-safe: KvCache's lock guards
// it.
//
//   Tenant& tenant = tenants.At(by.tenant);
//   ATTND_RETURN_IF_ERROR(tenant.CheckRoomForSession());
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "kernels/base/units.h"
#include "kv_cache/access.h"

namespace attnd {

// Zero: none but the daemon's.
struct TenantLimits {
  Bytes kv_bytes{};  // of slabs, on all devices together
  int64_t caches = 0;
  int64_t sessions = 0;
  int64_t sequences = 0;

  friend bool operator==(const TenantLimits&, const TenantLimits&) = default;
};

struct TenantInfo {
  TenantIndex tenant{};
  std::string name{};
  TenantLimits limits{};
  Bytes kv_bytes{};  // of the slabs that its caches hold
  int64_t caches = 0, sessions = 0, sequences = 0;
  // What its limits refused, since the daemon's start.
  uint64_t refused_kv_bytes = 0, refused_caches = 0, refused_sessions = 0, refused_sequences = 0;
};

class Tenant {
 public:
  explicit Tenant(TenantIndex index) { info_.tenant = index; }

  void Set(std::string_view name, const TenantLimits& limits);
  TenantIndex index() const { return info_.tenant; }
  const std::string& name() const { return info_.name; }
  TenantInfo Info() const;

  // RESOURCE_EXHAUSTED, counted, where one more would exceed the limit; says what makes room.
  absl::Status CheckRoomForCache();
  absl::Status CheckRoomForSession();
  absl::Status CheckRoomForSequence();
  // The same where pages could not be had within kv_bytes.
  void CountRefusedPages() { ++info_.refused_kv_bytes; }

  void AddCaches(int64_t count) { info_.caches += count; }
  void AddSessions(int64_t count) { info_.sessions += count; }
  void AddSequences(int64_t count) { info_.sequences += count; }
  void AddSuperblocks(int64_t count) { superblocks_ += count; }

  int64_t superblocks() const { return superblocks_; }
  int64_t superblocks_limit() const;  // INT64_MAX without one
  // How many more the limit allows; negative where it was lowered.
  int64_t superblocks_left() const { return superblocks_limit() - superblocks_; }
  // "" without a limit, else as a message names it.
  std::string DescribeKvLimit() const;

 private:
  absl::Status CheckRoom(const char* what, int64_t held, int64_t limit, const char* remedy,
                         uint64_t& refused) const;

  TenantInfo info_;
  int64_t superblocks_ = 0;
};

class TenantTable {
 public:
  TenantTable() { At(TenantIndex(0)); }

  // Makes tenants up to that index where there is none yet.
  Tenant& At(TenantIndex index);
  const Tenant* Find(TenantIndex index) const {
    return index.value() < tenants_.size() ? &tenants_[index.value()] : nullptr;
  }
  // visit(const Tenant&), by index.
  template <typename Visit>
  void ForEach(Visit visit) const {
    for (const Tenant& tenant : tenants_) visit(tenant);
  }

 private:
  std::deque<Tenant> tenants_;  // by TenantIndex; they stay where they are
};

}  // namespace attnd
