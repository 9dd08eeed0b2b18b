// SPDX-License-Identifier: Apache-2.0
#include "kv_cache/kv_cache_impl.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"
#include "kv_cache/error_detail.h"

namespace attnd {
namespace {

absl::Status CheckClientState(const std::string& client_state) {
  if (client_state.size() <= kMaxClientStateBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("client_state has %d bytes; at most %d are allowed", client_state.size(),
                      kMaxClientStateBytes));
}

absl::Status CheckNotNegative(TokenCount length) {
  if (length >= TokenCount(0)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("length is %d; it must not be negative", length.value()));
}

absl::Status HasLaunchedItems(SequenceId id) {
  return absl::FailedPreconditionError(absl::StrCat(
      "sequence ", ToString(id), " has launched items; wait until they have finished"));
}

}  // namespace

KvCache::Impl::Impl(std::span<const std::span<std::byte>> pools, const Options& options,
                    const Clock& clock)
    : caches_(pools, tenants_,
              {.boot = options.boot,
               .max_caches = options.max_caches,
               .poison_free_pages = options.poison_free_pages}),
      sessions_({.boot = options.boot,
                 .max_sessions = options.max_sessions,
                 .default_lease = options.default_lease,
                 .max_lease = options.max_lease},
                clock),
      sequences_(options.boot, options.max_sequences) {}

// Caches.

absl::StatusOr<KvCache::OpenedCache> KvCache::Impl::OpenCache(std::string_view name,
                                                              const CacheGeometry& geometry,
                                                              PageCount quota, TenantIndex tenant) {
  MutexLock lock(mu_);
  ATTND_ASSIGN_OR_RETURN(const CacheTable::Opened opened,
                         caches_.Open(name, geometry, quota, tenant));
  return OpenedCache{.info = Describe(*opened.cache), .created = opened.created};
}

absl::Status KvCache::Impl::CloseCache(CacheId cache, TenantIndex tenant) {
  MutexLock lock(mu_);
  return caches_.Close(cache, tenant);
}

void KvCache::Impl::SetTenant(TenantIndex tenant, std::string_view name,
                              const TenantLimits& limits) {
  MutexLock lock(mu_);
  tenants_.At(tenant).Set(name, limits);
}

// Sessions.

absl::StatusOr<SessionGrant> KvCache::Impl::OpenSession(Duration lease, std::string_view label,
                                                        std::string_view prefix_scope,
                                                        TenantIndex tenant) {
  MutexLock lock(mu_);
  ATTND_RETURN_IF_ERROR(tenants_.At(tenant).CheckRoomForSession());
  absl::StatusOr<SessionGrant> grant = sessions_.Open(lease, label, prefix_scope, tenant);
  if (grant.ok()) tenants_.At(tenant).AddSessions(1);
  return grant;
}

absl::StatusOr<SessionGrant> KvCache::Impl::ResumeSession(std::string_view token, Duration lease,
                                                          TenantIndex tenant) {
  MutexLock lock(mu_);
  return sessions_.Resume(token, lease, tenant);
}

absl::StatusOr<Duration> KvCache::Impl::RenewLease(SessionRef by) {
  MutexLock lock(mu_);
  ATTND_ASSIGN_OR_RETURN(const Session* session, sessions_.Authorize(by));
  return session->lease;
}

absl::Status KvCache::Impl::CloseSession(SessionRef by) {
  MutexLock lock(mu_);
  ATTND_ASSIGN_OR_RETURN(const Session* session, sessions_.FindWithEpoch(by));
  for (SequenceId id : session->sequences) {
    if (sequences_.Find(id)->pages().pinned()) return HasLaunchedItems(id);
  }
  for (SequenceId id : session->sequences) EraseSequence(id, by.tenant);
  sessions_.Erase(by.session);
  tenants_.At(by.tenant).AddSessions(-1);
  return absl::OkStatus();
}

std::vector<SessionRef> KvCache::Impl::ExpiredSessions() const {
  MutexLock lock(mu_);
  return sessions_.Expired();
}

void KvCache::Impl::FenceDevice(DeviceIndex device, std::string_view cause) {
  MutexLock lock(mu_);
  caches_.Fence(device, std::string(cause));
}

// Sequences.

absl::StatusOr<CreatedSequence> KvCache::Impl::CreateSequence(SessionRef by, CacheId cache_id,
                                                              std::string client_state,
                                                              const Prefix* prefix) {
  MutexLock lock(mu_);
  ATTND_ASSIGN_OR_RETURN(Session * session, sessions_.Authorize(by));
  ATTND_RETURN_IF_ERROR(CheckClientState(client_state));
  Cache* cache = caches_.Find(cache_id, by.tenant);
  if (cache == nullptr) return CacheTable::NotFound(cache_id);
  if (prefix != nullptr) ATTND_RETURN_IF_ERROR(CheckPrefix(*cache, *prefix));
  ATTND_RETURN_IF_ERROR(CheckRoomForSequence(by.tenant));

  CacheTable::Match match;
  TokenCount matched;
  if (prefix != nullptr) {
    match = caches_.FindPrefix(*cache, session->prefix_scope, prefix->keys);
    matched = MatchedTokens(*cache, *prefix, match.run.size());
  }
  if (!match.device) {
    ATTND_ASSIGN_OR_RETURN(match.device, caches_.Place(*cache));
  }
  cache->on(*match.device).prefixes.Touch(match.run);
  ATTND_ASSIGN_OR_RETURN(
      const SequenceId id,
      Adopt(*session, std::make_unique<Sequence>(by.session, *cache, *match.device,
                                                 std::move(client_state), match.run, matched)));
  if (prefix != nullptr) {
    prefix_tokens_queried_total_ += static_cast<uint64_t>(prefix->num_tokens.value());
    prefix_tokens_matched_total_ += static_cast<uint64_t>(matched.value());
  }
  return CreatedSequence{.sequence = id, .matched = matched};
}

absl::StatusOr<SequenceId> KvCache::Impl::Fork(SessionRef by, SequenceId parent_id,
                                               std::optional<TokenCount> length) {
  MutexLock lock(mu_);
  ATTND_ASSIGN_OR_RETURN(const Sequence* parent, FindUnpinned(by, parent_id));
  ATTND_RETURN_IF_ERROR(CheckNotLost(*parent));
  const TokenCount shared = length.value_or(parent->max_length());
  ATTND_RETURN_IF_ERROR(CheckNotNegative(shared));
  if (shared > parent->max_length()) {
    return absl::FailedPreconditionError(
        absl::StrFormat("a fork at %d tokens of a sequence whose longest layer holds %d",
                        shared.value(), parent->max_length().value()));
  }
  ATTND_RETURN_IF_ERROR(CheckRoomForSequence(by.tenant));
  return Adopt(*sessions_.Find(by.session), std::make_unique<Sequence>(*parent, shared));
}

absl::Status KvCache::Impl::Truncate(SessionRef by, SequenceId id, TokenCount length) {
  MutexLock lock(mu_);
  ATTND_ASSIGN_OR_RETURN(Sequence * sequence, FindUnpinned(by, id));
  ATTND_RETURN_IF_ERROR(CheckNotLost(*sequence));
  ATTND_RETURN_IF_ERROR(CheckNotNegative(length));
  sequence->Truncate(length);
  return absl::OkStatus();
}

absl::Status KvCache::Impl::Free(SessionRef by, SequenceId id) {
  MutexLock lock(mu_);
  ATTND_RETURN_IF_ERROR(FindUnpinned(by, id).status());
  sessions_.Find(by.session)->sequences.erase(id);
  EraseSequence(id, by.tenant);
  return absl::OkStatus();
}

absl::StatusOr<SequenceInfo> KvCache::Impl::Describe(SessionRef by, SequenceId id) {
  MutexLock lock(mu_);
  ATTND_ASSIGN_OR_RETURN(const Sequence* sequence, FindSequence(by, id));
  return Describe(id, *sequence, ClientState::kWith);
}

absl::StatusOr<std::vector<SequenceInfo>> KvCache::Impl::ListSequences(SessionRef by) {
  MutexLock lock(mu_);
  ATTND_ASSIGN_OR_RETURN(const Session* session, sessions_.Authorize(by));
  return DescribeAll(*session, ClientState::kWithout);
}

absl::StatusOr<std::vector<SequenceInfo>> KvCache::Impl::ResumedSequences(SessionRef by) {
  MutexLock lock(mu_);
  ATTND_ASSIGN_OR_RETURN(const Session* session, sessions_.FindWithEpoch(by));
  return DescribeAll(*session, ClientState::kWith);
}

absl::StatusOr<uint64_t> KvCache::Impl::SetClientState(SessionRef by, SequenceId id,
                                                       uint64_t expected_version,
                                                       std::string client_state) {
  MutexLock lock(mu_);
  ATTND_ASSIGN_OR_RETURN(Sequence * sequence, FindSequence(by, id));
  ATTND_RETURN_IF_ERROR(CheckClientState(client_state));
  if (sequence->client_state_version() != expected_version) {
    return AttachErrorDetail(absl::AbortedError(absl::StrFormat(
                                 "the client_state of sequence %s has version %d, not %d",
                                 ToString(id), sequence->client_state_version(), expected_version)),
                             {.reason = ErrorReason::kSuperseded});
  }
  sequence->ReplaceClientState(std::move(client_state));
  return sequence->client_state_version();
}

// Helpers.

absl::StatusOr<Sequence*> KvCache::Impl::FindSequence(SessionRef by, SequenceId id) {
  ATTND_RETURN_IF_ERROR(sessions_.Authorize(by).status());
  Sequence* sequence = sequences_.Find(id);
  if (sequence == nullptr || sequence->session() != by.session) {
    return AttachErrorDetail(
        absl::NotFoundError(absl::StrCat("sequence ", ToString(id), " not found")),
        {.reason = ErrorReason::kStaleId});
  }
  return sequence;
}

absl::StatusOr<Sequence*> KvCache::Impl::FindUnpinned(SessionRef by, SequenceId id) {
  ATTND_ASSIGN_OR_RETURN(Sequence * sequence, FindSequence(by, id));
  if (sequence->pages().pinned()) return HasLaunchedItems(id);
  return sequence;
}

absl::Status KvCache::Impl::CheckNotLost(const Sequence& sequence) const {
  const std::string& cause = caches_.fenced(sequence.device());
  if (cause.empty()) return absl::OkStatus();
  return DataLoss(cause);
}

absl::Status KvCache::Impl::CheckRoomForSequence(TenantIndex tenant) {
  ATTND_RETURN_IF_ERROR(tenants_.At(tenant).CheckRoomForSequence());
  if (!sequences_.full()) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrFormat(
      "%d sequences live, the most allowed; freeing one makes room", sequences_.size()));
}

absl::StatusOr<SequenceId> KvCache::Impl::Adopt(Session& session,
                                                std::unique_ptr<Sequence> sequence) {
  const SequenceId id = *sequences_.Insert(std::move(sequence));
  session.sequences.insert(id);
  tenants_.At(session.tenant).AddSequences(1);
  return id;
}

void KvCache::Impl::EraseSequence(SequenceId id, TenantIndex tenant) {
  sequences_.Erase(id);
  tenants_.At(tenant).AddSequences(-1);
}

std::vector<SequenceInfo> KvCache::Impl::DescribeAll(const Session& session,
                                                     ClientState client_state) const {
  std::vector<SequenceInfo> infos;
  infos.reserve(session.sequences.size());
  for (SequenceId id : session.sequences) {
    infos.push_back(Describe(id, *sequences_.Find(id), client_state));
  }
  return infos;
}

SequenceInfo KvCache::Impl::Describe(SequenceId id, const Sequence& sequence,
                                     ClientState client_state) {
  SequenceInfo info;
  info.sequence = id;
  info.cache = sequence.cache().id;
  info.device = sequence.device();
  info.pages = PageCount(static_cast<int64_t>(sequence.pages().size()));
  info.shared_pages = sequence.pages().CountShared();
  if (client_state == ClientState::kWith) info.client_state = sequence.client_state();
  info.client_state_version = sequence.client_state_version();
  info.layer_lengths.reserve(sequence.layers().size());
  info.layer_steps.reserve(sequence.layers().size());
  for (const Sequence::Layer& layer : sequence.layers()) {
    info.layer_lengths.push_back(layer.length.value());
    info.layer_steps.push_back(layer.step);
  }
  return info;
}

CacheInfo KvCache::Impl::Describe(const Cache& cache) {
  CacheInfo info{.cache = cache.id,
                 .tenant = cache.tenant.index(),
                 .tenant_name = cache.tenant.name(),
                 .name = cache.name,
                 .geometry = cache.geometry,
                 .layout = cache.layout,
                 .quota = cache.quota.limit,
                 .used = {},
                 .cached = {},
                 .free = {},
                 .reserved = {},
                 .num_slabs = 0,
                 .num_sequences = cache.num_sequences()};
  for (const CacheOnDevice& device : cache.devices) {
    info.used += device.pages.used();
    info.cached += device.pages.idle();
    info.free += device.pages.free();
    info.reserved += device.pages.promised();
    info.num_slabs += device.pages.num_slabs();
  }
  return info;
}

}  // namespace attnd
