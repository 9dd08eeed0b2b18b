// SPDX-License-Identifier: Apache-2.0
//
// Sessions: leases, epochs, and the tokens that take a session up again.
//
// A token is 16 bytes from the operating system's generator and is stored as its SHA-256 only, by
// which it is also looked up: how long a lookup takes says nothing about a token. A resume replaces
// the token; the former one opens the session until the new epoch is used, so that a client whose
// answer was lost is not shut out of its KV. A session whose lease has ended is NOT_FOUND for
// everyone until it is erased. Not thread-safe: KvCache's lock guards it.
//
//   StatusOr<SessionGrant> grant = sessions.Open(lease, "model-server-1");
//   StatusOr<Session*> session = sessions.Authorize(grant->ref);   // renews the lease
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/clock.h"
#include "kv_cache/access.h"
#include "kv_cache/ids.h"
#include "kv_cache/slot_table.h"

namespace attnd {

using TokenHash = std::array<uint8_t, 32>;

struct Session {
  uint64_t epoch = 1;
  Duration lease{};
  MonotonicTime lease_end;
  TokenHash token_hash{};
  std::optional<TokenHash> former_token_hash;  // until the epoch has been used
  std::string label;
  TenantIndex tenant;        // whose it is
  std::string prefix_scope;  // whose prefixes its sequences share, within the tenant's caches
  absl::btree_set<SequenceId> sequences;
};

class SessionTable {
 public:
  struct Options {
    uint64_t boot = 0;
    int64_t max_sessions = 0;
    Duration default_lease{};
    Duration max_lease{};
  };

  // `clock` outlives the table.
  SessionTable(const Options& options, const Clock& clock);

  // A lease of zero means the default, or on resuming what it was; it is cut to the maximum.
  absl::StatusOr<SessionGrant> Open(Duration lease, std::string_view label,
                                    std::string_view prefix_scope = {}, TenantIndex tenant = {});
  absl::StatusOr<SessionGrant> Resume(std::string_view token, Duration lease,
                                      TenantIndex tenant = {});

  // The session, its lease renewed and its epoch used. NOT_FOUND where it is unknown, another
  // tenant's or its lease has ended; ABORTED for an epoch that was superseded; INVALID_ARGUMENT for
  // one that was never given out.
  absl::StatusOr<Session*> Authorize(SessionRef by);
  // Checks the epoch and changes nothing: closing may come after the lease's end, and the answer to
  // a resume is no use of its epoch.
  absl::StatusOr<Session*> FindWithEpoch(SessionRef by);
  void Erase(SessionId id);

  std::vector<SessionRef> Expired() const;
  const Session* Find(SessionId id) const { return sessions_.Find(id); }
  Session* Find(SessionId id) { return sessions_.Find(id); }
  int64_t size() const { return sessions_.size(); }
  MonotonicTime Now() const { return clock_.Now(); }
  // visit(SessionId, const Session&), expired ones too.
  template <typename Visit>
  void ForEach(Visit visit) const {
    sessions_.ForEach(visit);
  }

 private:
  void ForgetFormerToken(Session& session);
  absl::StatusOr<Duration> LeaseFor(Duration asked, Duration otherwise) const;

  const Options options_;
  const Clock& clock_;
  SlotTable<SessionId, Session> sessions_;
  absl::flat_hash_map<TokenHash, SessionId> by_token_;  // never iterated
};

}  // namespace attnd
