// SPDX-License-Identifier: Apache-2.0
//
// The file that says who may call, with which tokens, and how much of the daemon is whose. YAML:
//
//   tenants:
//     - name: chat                  # 1 to 64 characters of [A-Za-z0-9._-]
//       tokens: [3f1c...]           # 16 to 512 visible ASCII characters each, and/or
//       token_sha256: [9f86...]     # their SHA-256 in hex, so that the file holds no secret
//       max_kv_bytes: 8GiB          # of slabs, on all devices together
//       max_caches: 4
//       max_sessions: 64
//       max_sequences: 4096
//       max_queued_requests: 512    # likewise max_queued_items and max_queued_tokens
//       max_staging_bytes: 512MiB
//     - name: grafana
//       role: monitor               # tenant (the default), monitor or admin
//       tokens: [77ab...]
//
// What a tenant leaves out is its equal share of the daemon's, see tenant_registry.h. Errors name
// the file, the line, the field and what is expected, and never a token. Pure functions but for
// ReadSecretFile, safe from any thread.
//
//   ATTND_ASSIGN_OR_RETURN(std::string text, ReadSecretFile(path));
//   ATTND_ASSIGN_OR_RETURN(std::vector<TenantSpec> tenants, ParseTenants(text, path));
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/base/units.h"

namespace attnd {

using Sha256 = std::array<uint8_t, 32>;
Sha256 HashSecret(absl::string_view secret);

// What the holder of a token may do.
enum class Role {
  kTenant,   // attend, and see its own
  kMonitor,  // see all figures
  kAdmin,    // see all figures, drain, check, set the log level
};
absl::string_view Name(Role role);

// 0: left out.
struct TenantShare {
  Bytes kv_bytes{}, staging_bytes{};
  int64_t caches = 0, sessions = 0, sequences = 0;
  int64_t queued_requests = 0, queued_items = 0, queued_tokens = 0;

  friend bool operator==(const TenantShare&, const TenantShare&) = default;
};

struct TenantSpec {
  std::string name{};
  Role role = Role::kTenant;
  std::vector<Sha256> tokens{};
  TenantShare share{};
};

inline constexpr int kMaxTenants = 64;

// INVALID_ARGUMENT for anything malformed, unknown, out of range or said twice, and where two
// tenants have one name or one token.
absl::StatusOr<std::vector<TenantSpec>> ParseTenants(absl::string_view text,
                                                     absl::string_view path);

// A file's text. INVALID_ARGUMENT where it cannot be read, is no regular file, is larger than 1
// MiB, or its mode lets everybody read or change it: whoever may log in would have its secrets.
absl::StatusOr<std::string> ReadSecretFile(const std::string& path);

}  // namespace attnd
