// SPDX-License-Identifier: Apache-2.0
//
// Who calls: the tenants of the tenants file, found by their bearer tokens.
//
// Tokens are kept and compared as SHA-256, all of them for every call, so that how long it takes
// says nothing about any. The file is read again when it changes; one that is bad then leaves
// things as they were. A tenant keeps its index as long as the daemon runs, by its name; one that
// left the file can call no more, its sessions end with their leases. Without a file everybody is
// the same tenant, which may do everything. Thread-safe.
//
//   TenantRegistry tenants(options.tenants_file);
//   ATTND_RETURN_IF_ERROR(tenants.Load());
//   ATTND_ASSIGN_OR_RETURN(Caller caller, tenants.Authenticate("Bearer 3f1c..."));
//   ATTND_RETURN_IF_ERROR(Require(caller, Right::kAttend));
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/base/mutex.h"
#include "kv_cache/access.h"
#include "server/security/file_version.h"
#include "server/security/tenants_file.h"

namespace attnd {

enum class Right {
  kAttend,   // everything that concerns one's own caches, sessions and sequences
  kObserve,  // figures; a tenant sees its own
  kOperate,  // drain, check, set the log level
};

struct Caller {
  TenantIndex tenant{};
  std::optional<Role> role{};    // none where callers are not told apart
  const std::string* name = {};  // of the tenant; never null, and lives as long as the registry
  Sha256 token{};
  uint64_t version = 0;  // of the file that it was found in

  // Whether it may see what is others'.
  bool sees_all() const { return role != Role::kTenant; }
};

// PERMISSION_DENIED where the caller's role does not have the right.
absl::Status Require(const Caller& caller, Right right);

class TenantRegistry {
 public:
  // `path` is that of the tenants file; empty: callers are not told apart.
  explicit TenantRegistry(std::string path);

  bool enabled() const { return !path_.empty(); }
  // Reads the file. An error leaves what there was.
  absl::Status Load() ABSL_LOCKS_EXCLUDED(mu_);
  // True where the file has changed since it was read last, well or not.
  bool Changed() const ABSL_LOCKS_EXCLUDED(mu_);

  // `authorization` is the header of the call. UNAUTHENTICATED where it is absent, malformed or has
  // an unknown token.
  absl::StatusOr<Caller> Authenticate(std::optional<absl::string_view> authorization) const
      ABSL_LOCKS_EXCLUDED(mu_);
  // Whether its token still counts: for calls that last.
  absl::Status Revalidate(Caller& caller) const ABSL_LOCKS_EXCLUDED(mu_);

  struct Entry {
    TenantIndex tenant;
    TenantSpec spec;
  };
  std::vector<Entry> Entries() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  absl::StatusOr<Caller> Find(const Sha256& token) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const std::string path_;
  mutable Mutex mu_;
  FileVersion read_ ABSL_GUARDED_BY(mu_);
  uint64_t version_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<Entry> entries_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, TenantIndex> indexes_ ABSL_GUARDED_BY(mu_);  // of all names there ever were
};

// What each tenant may hold at most: what its entry says, and where it says nothing its equal share
// of `whole` among the entries that may attend, so that together they hold no more than there is.
TenantShare ShareOf(const TenantSpec& spec, const TenantShare& whole, int64_t num_tenants);

}  // namespace attnd
