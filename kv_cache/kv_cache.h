// SPDX-License-Identifier: Apache-2.0
//
// The paged KV cache: who owns which pages of the pool, and what a launch may read and write.
//
// Caches are named geometries that grow by slabs out of each device's pool; a sequence and its
// forks live on one device, chosen when the first was created. Sessions hold sequences by a lease;
// a sequence maps positions to pages and knows, for each layer, its length and the step that was
// applied last. DESIGN.md's "semantics of Attend" are kept here: positions without holes, steps and
// epochs, copy-on-write, all or nothing for each item. Full pages can be published under content
// keys: they outlive their sequence, and are evicted when pages run out (prefix_index.h).
//
// Thread safety: thread-safe; one lock, never held across a copy or a launch. Order is the
// caller's: the scheduler calls Fork, Truncate, PublishPrefix, Free and CloseSession for a sequence
// only while none of its items is launched (FAILED_PRECONDITION otherwise), and executes a lease's
// page copies before its launch.
//
// The life of an item:
//
//   StatusOr<PageReservation> reservation = cache.Reserve(access);     // at admission
//   StatusOr<PageLease> lease = cache.Pin(access, std::move(*reservation));  // just before the
//   launch stream.CopyPages(lease->copies()); backend.Launch(...);            // reads
//   lease->page_offsets()
//   // ~PageLease, once the launch's event is done
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/attention/params.h"
#include "kernels/base/clock.h"
#include "kernels/base/units.h"
#include "kv_cache/access.h"
#include "kv_cache/geometry.h"
#include "kv_cache/ids.h"
#include "kv_cache/page_lease.h"
#include "kv_cache/tenant_table.h"

namespace attnd {

struct SequenceInfo {
  SequenceId sequence;
  CacheId cache;
  std::vector<int64_t> layer_lengths;  // [num_layers], tokens
  std::vector<uint64_t> layer_steps;   // [num_layers], the step applied last, 0 for none
  DeviceIndex device;
  PageCount pages;
  PageCount shared_pages;
  std::string client_state;
  uint64_t client_state_version = 0;
};

struct SessionInfo {
  SessionId session;
  TenantIndex tenant;
  std::string tenant_name;
  std::string label;
  uint64_t epoch = 0;
  int64_t num_sequences = 0;
  Duration lease{};
  Duration lease_remaining{};
};

struct CacheInfo {
  CacheId cache;
  TenantIndex tenant;
  std::string tenant_name;
  std::string name;
  CacheGeometry geometry;
  SlabLayout layout;
  PageCount quota;  // 0: none but the pool's
  // Held by a sequence; published and held by none; neither; of these, promised.
  PageCount used, cached, free, reserved;
  int64_t num_slabs = 0;
  int64_t num_sequences = 0;
};

// A prompt, by the content keys of its full pages (see proto/attnd/v1/sequence.proto).
struct Prefix {
  std::span<const std::string_view> keys;  // at most num_tokens / page_size_tokens
  TokenCount num_tokens;                   // at least 1
};

struct CreatedSequence {
  SequenceId sequence;
  TokenCount matched;  // the length of every layer
};

struct PublishedPrefix {
  PageCount pages;  // under the keys now, by whomever they were published
  PageCount added;  // of these, by this call
};

// Where a sequence lives and how its items are shaped: both for its life.
struct SequencePlace {
  CacheGeometry geometry;
  DeviceIndex device;
};

struct PoolStats {
  Bytes bytes, free_bytes;
  int64_t largest_free_run_superblocks = 0;  // against free_bytes: fragmentation
  int64_t num_sequences = 0;
  std::string failure;  // why its device is fenced; empty where it works
};

struct KvCacheStats {
  std::vector<PoolStats> pools;       // by DeviceIndex
  Bytes pool_bytes, pool_free_bytes;  // of all
  int64_t num_sessions = 0, num_sequences = 0;
  std::vector<CacheInfo> caches;
  std::vector<TenantInfo> tenants;  // by TenantIndex
  uint64_t pages_copied_total = 0;  // copy-on-write
  uint64_t slabs_moved_total = 0;   // given back to the pool for another cache
  // num_tokens of all prefixes that sequences were created with; what was matched of them; pages
  // evicted because pages ran out.
  uint64_t prefix_tokens_queried_total = 0, prefix_tokens_matched_total = 0;
  uint64_t prefix_pages_evicted_total = 0;
};

class KvCache {
 public:
  struct Options {
    uint64_t boot = 0;  // drawn at random at each start of the daemon
    Duration default_lease = std::chrono::minutes(5);
    Duration max_lease = std::chrono::hours(24);
    int64_t max_sessions = 4096;
    int64_t max_sequences = 1 << 16;
    int64_t max_caches = 256;
    // Tests: fill a page with NaN bytes when it becomes free. Host memory only.
    bool poison_free_pages = false;
  };

  // `pools` are device memory, one for each DeviceIndex, aligned to kSuperblockBytes, owned by the
  // caller and longer-lived.
  KvCache(std::span<const std::span<std::byte>> pools, const Options& options, const Clock& clock);
  KvCache(std::span<std::byte> pool, const Options& options, const Clock& clock)
      : KvCache(std::span(&pool, 1), options, clock) {}
  ~KvCache();
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  // Caches. Open is idempotent by name; FAILED_PRECONDITION names the field of the geometry that
  // differs; a quota above zero replaces the one the cache had (below what is in use it only stops
  // growth); RESOURCE_EXHAUSTED where a single slab is larger than the pool. Close:
  // FAILED_PRECONDITION while sequences live in it.
  struct OpenedCache {
    CacheInfo info;
    bool created = false;
  };
  absl::StatusOr<OpenedCache> OpenCache(std::string_view name, const CacheGeometry& geometry,
                                        PageCount quota, TenantIndex tenant = {});
  absl::Status CloseCache(CacheId cache, TenantIndex tenant = {});

  // Names a tenant and sets its limits, from then on; see tenant_table.h. Every object is a
  // tenant's, and NOT_FOUND for the others. RESOURCE_EXHAUSTED with the reason kTenantLimit where
  // one of its limits is in the way.
  void SetTenant(TenantIndex tenant, std::string_view name, const TenantLimits& limits);

  // Sessions. A lease of zero means the default, or on resuming what it was. Resume raises the
  // epoch and replaces the token; NOT_FOUND for a token that is unknown, replaced or whose lease
  // ended.
  // `prefix_scope` says whose prefixes the session's sequences share, within the tenant's caches;
  // at most 128 bytes.
  absl::StatusOr<SessionGrant> OpenSession(Duration lease, std::string_view label,
                                           std::string_view prefix_scope = {},
                                           TenantIndex tenant = {});
  // The token that was sent goes on resuming until the new epoch is first used (ADR 0003).
  absl::StatusOr<SessionGrant> ResumeSession(std::string_view token, Duration lease,
                                             TenantIndex tenant = {});
  absl::StatusOr<Duration> RenewLease(SessionRef by);
  absl::Status CloseSession(SessionRef by);
  // Sessions whose lease has ended; the scheduler closes each once nothing of it is launched. Until
  // then every other call finds neither them nor their sequences. Any call that passes the check of
  // its session's epoch starts the lease anew.
  std::vector<SessionRef> ExpiredSessions() const;

  // Sequences.
  // INTERNAL where every device has failed.
  absl::StatusOr<SequenceId> CreateSequence(SessionRef by, CacheId cache, std::string client_state);
  // Shares the longest run of published pages that `prefix` names, on the device that has it, and
  // leaves at least one of its tokens to compute. INVALID_ARGUMENT for a bad prefix.
  absl::StatusOr<CreatedSequence> CreateSequence(SessionRef by, CacheId cache,
                                                 std::string client_state, const Prefix& prefix);
  // What it would match now. Changes nothing.
  absl::StatusOr<TokenCount> MatchPrefix(SessionRef by, CacheId cache, const Prefix& prefix);
  // Publishes pages [first_page, first_page + keys.size()); see PrefixIndex. FAILED_PRECONDITION
  // where one of them is not complete in every layer or has another key.
  absl::StatusOr<PublishedPrefix> PublishPrefix(SessionRef by, SequenceId sequence,
                                                int64_t first_page,
                                                std::span<const std::string_view> keys);
  // Shares the pages of the first `length` tokens, of all of them by default.
  absl::StatusOr<SequenceId> Fork(SessionRef by, SequenceId parent,
                                  std::optional<TokenCount> length);
  absl::Status Truncate(SessionRef by, SequenceId sequence, TokenCount length);
  absl::Status Free(SessionRef by, SequenceId sequence);
  absl::StatusOr<SequenceInfo> Describe(SessionRef by, SequenceId sequence) const;
  // Without client_state.
  absl::StatusOr<std::vector<SequenceInfo>> ListSequences(SessionRef by) const;
  // For the answer to a resume: with client_state, and no use of the new epoch.
  absl::StatusOr<std::vector<SequenceInfo>> ResumedSequences(SessionRef by) const;
  // Returns the new version. ABORTED where the current version is not `expected_version`.
  absl::StatusOr<uint64_t> SetClientState(SessionRef by, SequenceId sequence,
                                          uint64_t expected_version, std::string client_state);

  // Items. PlaceOf serves validation before any tensor is touched and renews the session's lease.
  absl::StatusOr<SequencePlace> PlaceOf(SessionRef by, SequenceId sequence);
  // Promises the pages that the access will need: new ones, and one for each shared page it writes.
  // RESOURCE_EXHAUSTED says needed, free and what would free it. Checks the range of the layer and
  // nothing that earlier items in the queue may still change. Reads reserve nothing.
  absl::StatusOr<PageReservation> Reserve(const LayerAccess& access);
  // Checks epoch, step and positions; takes pages; applies the write to length and step; pins.
  // After an error nothing has changed.
  absl::StatusOr<PageLease> Pin(const LayerAccess& access, PageReservation reservation);

  // What lay on a failed device is lost: from now on Fork, Truncate, Reserve and Pin of its
  // sequences are DATA_LOSS with that cause, and no new ones come there. They can still be
  // described and freed, and their client_state, which is the host's, goes on.
  void FenceDevice(DeviceIndex device, std::string_view cause);
  static absl::Status DataLoss(std::string_view cause);

  KvCacheStats Stats() const;
  std::vector<SessionInfo> ListSessions() const;
  struct IntegrityReport {
    int64_t pages_checked = 0;
    int64_t sequences_checked = 0;
  };
  // Walks reference counts, free lists, block tables, reservations and slabs; INTERNAL names the
  // first disagreement.
  absl::StatusOr<IntegrityReport> CheckIntegrity() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace attnd
