// SPDX-License-Identifier: Apache-2.0
#include "kv_cache/kv_cache.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kv_cache/kv_cache_impl.h"

namespace attnd {

KvCache::KvCache(std::span<const std::span<std::byte>> pools, const Options& options,
                 const Clock& clock)
    : impl_(std::make_unique<Impl>(pools, options, clock)) {}

KvCache::~KvCache() = default;

absl::StatusOr<KvCache::OpenedCache> KvCache::OpenCache(std::string_view name,
                                                        const CacheGeometry& geometry,
                                                        PageCount quota, TenantIndex tenant) {
  return impl_->OpenCache(name, geometry, quota, tenant);
}

absl::Status KvCache::CloseCache(CacheId cache, TenantIndex tenant) {
  return impl_->CloseCache(cache, tenant);
}

void KvCache::SetTenant(TenantIndex tenant, std::string_view name, const TenantLimits& limits) {
  impl_->SetTenant(tenant, name, limits);
}

absl::StatusOr<SessionGrant> KvCache::OpenSession(Duration lease, std::string_view label,
                                                  std::string_view prefix_scope,
                                                  TenantIndex tenant) {
  return impl_->OpenSession(lease, label, prefix_scope, tenant);
}

absl::StatusOr<SessionGrant> KvCache::ResumeSession(std::string_view token, Duration lease,
                                                    TenantIndex tenant) {
  return impl_->ResumeSession(token, lease, tenant);
}

absl::StatusOr<Duration> KvCache::RenewLease(SessionRef by) { return impl_->RenewLease(by); }

absl::Status KvCache::CloseSession(SessionRef by) { return impl_->CloseSession(by); }

std::vector<SessionRef> KvCache::ExpiredSessions() const { return impl_->ExpiredSessions(); }

absl::StatusOr<SequenceId> KvCache::CreateSequence(SessionRef by, CacheId cache,
                                                   std::string client_state) {
  absl::StatusOr<CreatedSequence> created =
      impl_->CreateSequence(by, cache, std::move(client_state), /*prefix=*/nullptr);
  if (!created.ok()) return created.status();
  return created->sequence;
}

absl::StatusOr<CreatedSequence> KvCache::CreateSequence(SessionRef by, CacheId cache,
                                                        std::string client_state,
                                                        const Prefix& prefix) {
  return impl_->CreateSequence(by, cache, std::move(client_state), &prefix);
}

absl::StatusOr<TokenCount> KvCache::MatchPrefix(SessionRef by, CacheId cache,
                                                const Prefix& prefix) {
  return impl_->MatchPrefix(by, cache, prefix);
}

absl::StatusOr<PublishedPrefix> KvCache::PublishPrefix(SessionRef by, SequenceId sequence,
                                                       int64_t first_page,
                                                       std::span<const std::string_view> keys) {
  return impl_->PublishPrefix(by, sequence, first_page, keys);
}

absl::StatusOr<SequenceId> KvCache::Fork(SessionRef by, SequenceId parent,
                                         std::optional<TokenCount> length) {
  return impl_->Fork(by, parent, length);
}

absl::Status KvCache::Truncate(SessionRef by, SequenceId sequence, TokenCount length) {
  return impl_->Truncate(by, sequence, length);
}

absl::Status KvCache::Free(SessionRef by, SequenceId sequence) { return impl_->Free(by, sequence); }

absl::StatusOr<SequenceInfo> KvCache::Describe(SessionRef by, SequenceId sequence) const {
  return impl_->Describe(by, sequence);
}

absl::StatusOr<std::vector<SequenceInfo>> KvCache::ListSequences(SessionRef by) const {
  return impl_->ListSequences(by);
}
absl::StatusOr<std::vector<SequenceInfo>> KvCache::ResumedSequences(SessionRef by) const {
  return impl_->ResumedSequences(by);
}

absl::StatusOr<uint64_t> KvCache::SetClientState(SessionRef by, SequenceId sequence,
                                                 uint64_t expected_version,
                                                 std::string client_state) {
  return impl_->SetClientState(by, sequence, expected_version, std::move(client_state));
}

absl::StatusOr<SequencePlace> KvCache::PlaceOf(SessionRef by, SequenceId sequence) {
  return impl_->PlaceOf(by, sequence);
}

absl::Status KvCache::DataLoss(std::string_view cause) {
  return absl::DataLossError(
      absl::StrCat(std::string(cause), "; the sequence was on it: free it and recompute"));
}

void KvCache::FenceDevice(DeviceIndex device, std::string_view cause) {
  impl_->FenceDevice(device, cause);
}

absl::StatusOr<PageReservation> KvCache::Reserve(const LayerAccess& access) {
  return impl_->Reserve(access);
}

absl::StatusOr<PageLease> KvCache::Pin(const LayerAccess& access, PageReservation reservation) {
  return impl_->Pin(access, reservation);
}

KvCacheStats KvCache::Stats() const { return impl_->Stats(); }

std::vector<SessionInfo> KvCache::ListSessions() const { return impl_->ListSessions(); }

absl::StatusOr<KvCache::IntegrityReport> KvCache::CheckIntegrity() const {
  return impl_->CheckIntegrity();
}

}  // namespace attnd
