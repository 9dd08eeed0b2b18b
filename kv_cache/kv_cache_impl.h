// SPDX-License-Identifier: Apache-2.0
//
// KvCache's state, under its one lock. Included by the sources of the facade only:
// kv_cache_impl.cc (caches, sessions, sequences), prefix_access.cc (prefixes), item_access.cc
// (Reserve, Pin and what they hand out), integrity.cc (statistics and CheckIntegrity).
//
// Thread safety: as KvCache's. Members are destroyed from the last to the first: sequences give
// their pages back to the caches, caches their slabs to the pool.
//
//   MutexLock lock(mu_);
//   ATTND_ASSIGN_OR_RETURN(Sequence * sequence, FindSequence(by, id));
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/mutex.h"
#include "kv_cache/cache_table.h"
#include "kv_cache/kv_cache.h"
#include "kv_cache/sequence.h"
#include "kv_cache/session_table.h"
#include "kv_cache/slot_table.h"
#include "kv_cache/tenant_table.h"

namespace attnd {

class KvCache::Impl final : public LeaseOwner {
 public:
  Impl(std::span<const std::span<std::byte>> pools, const Options& options, const Clock& clock);

  // As in KvCache.
  absl::StatusOr<OpenedCache> OpenCache(std::string_view name, const CacheGeometry& geometry,
                                        PageCount quota, TenantIndex tenant)
      ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status CloseCache(CacheId cache, TenantIndex tenant) ABSL_LOCKS_EXCLUDED(mu_);
  void SetTenant(TenantIndex tenant, std::string_view name, const TenantLimits& limits)
      ABSL_LOCKS_EXCLUDED(mu_);

  absl::StatusOr<SessionGrant> OpenSession(Duration lease, std::string_view label,
                                           std::string_view prefix_scope, TenantIndex tenant)
      ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<SessionGrant> ResumeSession(std::string_view token, Duration lease,
                                             TenantIndex tenant) ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<Duration> RenewLease(SessionRef by) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status CloseSession(SessionRef by) ABSL_LOCKS_EXCLUDED(mu_);
  std::vector<SessionRef> ExpiredSessions() const ABSL_LOCKS_EXCLUDED(mu_);

  // Without a prefix where `prefix` is null.
  absl::StatusOr<CreatedSequence> CreateSequence(SessionRef by, CacheId cache,
                                                 std::string client_state, const Prefix* prefix)
      ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<TokenCount> MatchPrefix(SessionRef by, CacheId cache, const Prefix& prefix)
      ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<PublishedPrefix> PublishPrefix(SessionRef by, SequenceId sequence,
                                                int64_t first_page,
                                                std::span<const std::string_view> keys)
      ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<SequenceId> Fork(SessionRef by, SequenceId parent,
                                  std::optional<TokenCount> length) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status Truncate(SessionRef by, SequenceId sequence, TokenCount length)
      ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status Free(SessionRef by, SequenceId sequence) ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<SequenceInfo> Describe(SessionRef by, SequenceId sequence)
      ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<std::vector<SequenceInfo>> ListSequences(SessionRef by) ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<std::vector<SequenceInfo>> ResumedSequences(SessionRef by)
      ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<uint64_t> SetClientState(SessionRef by, SequenceId sequence,
                                          uint64_t expected_version, std::string client_state)
      ABSL_LOCKS_EXCLUDED(mu_);

  void FenceDevice(DeviceIndex device, std::string_view cause) ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<SequencePlace> PlaceOf(SessionRef by, SequenceId sequence)
      ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<PageReservation> Reserve(const LayerAccess& access) ABSL_LOCKS_EXCLUDED(mu_);
  // Detaches `reservation` where it succeeds.
  absl::StatusOr<PageLease> Pin(const LayerAccess& access, PageReservation& reservation)
      ABSL_LOCKS_EXCLUDED(mu_);

  KvCacheStats Stats() const ABSL_LOCKS_EXCLUDED(mu_);
  std::vector<SessionInfo> ListSessions() const ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<IntegrityReport> CheckIntegrity() const ABSL_LOCKS_EXCLUDED(mu_);

  // LeaseOwner.
  void ReturnReservation(SequenceId sequence) override ABSL_LOCKS_EXCLUDED(mu_);
  void Unpin(Pinned pinned) override ABSL_LOCKS_EXCLUDED(mu_);

 private:
  // One answer for what is unknown, stale or another session's, so that it reveals nothing.
  absl::StatusOr<Sequence*> FindSequence(SessionRef by, SequenceId id)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The same for what must wait until nothing of the sequence is launched.
  absl::StatusOr<Sequence*> FindUnpinned(SessionRef by, SequenceId id)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // DATA_LOSS where the sequence's device has failed.
  absl::Status CheckNotLost(const Sequence& sequence) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  static absl::Status CheckPrefix(const Cache& cache, const Prefix& prefix);
  // Of the prefix's tokens, how many a run of `num_pages` pages holds but for the last token.
  static TokenCount MatchedTokens(const Cache& cache, const Prefix& prefix, size_t num_pages);
  absl::Status CheckRoomForSequence(TenantIndex tenant) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void EraseSequence(SequenceId id, TenantIndex tenant) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<SequenceId> Adopt(Session& session, std::unique_ptr<Sequence> sequence)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status Exhausted(SequenceId id, const Sequence& sequence,
                         const PageShortage& shortage) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Parts of CheckIntegrity. Static, since the lock is not seen to be held within a visitor.
  static absl::Status CheckSequences(const SlotTable<SequenceId, Sequence>& sequences,
                                     const SessionTable& sessions);
  static absl::Status CheckCache(const Cache& cache, DeviceIndex device,
                                 const SlotTable<SequenceId, Sequence>& sequences);

  absl::Status CheckTenants() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // The state is up to 1 MiB a sequence: copied only for who asked for it.
  enum class ClientState { kWithout, kWith };
  std::vector<SequenceInfo> DescribeAll(const Session& session, ClientState client_state) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  static SequenceInfo Describe(SequenceId id, const Sequence& sequence, ClientState client_state);
  static CacheInfo Describe(const Cache& cache);

  mutable Mutex mu_;
  TenantTable tenants_ ABSL_GUARDED_BY(mu_);
  CacheTable caches_ ABSL_GUARDED_BY(mu_);
  SessionTable sessions_ ABSL_GUARDED_BY(mu_);
  SlotTable<SequenceId, Sequence> sequences_ ABSL_GUARDED_BY(mu_);
  uint64_t pages_copied_total_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t prefix_tokens_queried_total_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t prefix_tokens_matched_total_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace attnd
