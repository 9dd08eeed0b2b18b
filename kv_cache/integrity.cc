// SPDX-License-Identifier: Apache-2.0
//
// What the cache says about itself: statistics, and the walk that finds any disagreement.
#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"
#include "kv_cache/kv_cache_impl.h"

namespace attnd {
namespace {

absl::Status In(const std::string& where, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::InternalError(absl::StrCat(where, ": ", status.message()));
}

}  // namespace

KvCacheStats KvCache::Impl::Stats() const {
  MutexLock lock(mu_);
  const auto bytes = [](int64_t superblocks) {
    return Bytes(static_cast<uint64_t>(superblocks) * kSuperblockBytes.value());
  };
  KvCacheStats stats{.pools = {},
                     .pool_bytes = {},
                     .pool_free_bytes = {},
                     .num_sessions = sessions_.size(),
                     .num_sequences = sequences_.size(),
                     .caches = {},
                     .tenants = {},
                     .pages_copied_total = pages_copied_total_,
                     .slabs_moved_total = caches_.slabs_moved_total(),
                     .prefix_tokens_queried_total = prefix_tokens_queried_total_,
                     .prefix_tokens_matched_total = prefix_tokens_matched_total_,
                     .prefix_pages_evicted_total = caches_.prefix_pages_evicted_total()};
  for (uint32_t i = 0; i < caches_.num_devices(); ++i) {
    const DevicePool& pool = caches_.pool(DeviceIndex(i));
    stats.pools.push_back({.bytes = bytes(pool.num_superblocks()),
                           .free_bytes = bytes(pool.free_superblocks()),
                           .largest_free_run_superblocks = pool.largest_free_run(),
                           .failure = caches_.fenced(DeviceIndex(i))});
    stats.pool_bytes += stats.pools.back().bytes;
    stats.pool_free_bytes += stats.pools.back().free_bytes;
  }
  caches_.ForEach([&](const Cache& cache) {
    stats.caches.push_back(Describe(cache));
    for (const CacheOnDevice& device : cache.devices) {
      stats.pools[device.pages.device().value()].num_sequences += device.num_sequences;
    }
  });
  tenants_.ForEach([&](const Tenant& tenant) { stats.tenants.push_back(tenant.Info()); });
  return stats;
}

std::vector<SessionInfo> KvCache::Impl::ListSessions() const {
  MutexLock lock(mu_);
  const MonotonicTime now = sessions_.Now();
  std::vector<std::string> names;
  tenants_.ForEach([&](const Tenant& tenant) { names.push_back(tenant.name()); });
  std::vector<SessionInfo> infos;
  sessions_.ForEach([&](SessionId id, const Session& session) {
    infos.push_back({.session = id,
                     .tenant = session.tenant,
                     .tenant_name = names[session.tenant.value()],
                     .label = session.label,
                     .epoch = session.epoch,
                     .num_sequences = static_cast<int64_t>(session.sequences.size()),
                     .lease = session.lease,
                     .lease_remaining = std::max(session.lease_end - now, Duration::zero())});
  });
  return infos;
}

absl::StatusOr<KvCache::IntegrityReport> KvCache::Impl::CheckIntegrity() const {
  MutexLock lock(mu_);
  ATTND_RETURN_IF_ERROR(CheckSequences(sequences_, sessions_));
  IntegrityReport report{.sequences_checked = sequences_.size()};
  std::vector<const Cache*> caches;
  caches_.ForEach([&](const Cache& cache) { caches.push_back(&cache); });
  for (uint32_t i = 0; i < caches_.num_devices(); ++i) {
    const DeviceIndex device(i);
    std::vector<SuperblockRun> held;
    for (const Cache* cache : caches) {
      const absl::Status status = CheckCache(*cache, device, sequences_);
      ATTND_RETURN_IF_ERROR(In(absl::StrCat("cache '", cache->name, "', device ", i), status));
      const PageAllocator& pages = cache->devices[i].pages;
      for (const SuperblockRun& run : pages.HeldRuns()) held.push_back(run);
      report.pages_checked += (pages.used() + pages.idle() + pages.free()).value();
    }
    ATTND_RETURN_IF_ERROR(
        In(absl::StrCat("device ", i), caches_.pool(device).CheckIntegrity(held)));
  }
  for (const Cache* cache : caches) {
    const CacheInfo info = Describe(*cache);
    const PageCount taken = info.used + info.cached + info.reserved;
    if (taken == cache->quota.taken && info.cached == cache->quota.idle) continue;
    return absl::InternalError(absl::StrFormat(
        "cache '%s' has taken %d pages, %d of them idle; its quota counts %d and %d", cache->name,
        taken.value(), info.cached.value(), cache->quota.taken.value(), cache->quota.idle.value()));
  }
  ATTND_RETURN_IF_ERROR(CheckTenants());
  return report;
}

// What each tenant is said to hold against what there is.
absl::Status KvCache::Impl::CheckTenants() const {
  std::vector<TenantInfo> counted;
  tenants_.ForEach([&](const Tenant& tenant) { counted.push_back({.tenant = tenant.index()}); });
  caches_.ForEach([&](const Cache& cache) {
    TenantInfo& tenant = counted[cache.tenant.index().value()];
    ++tenant.caches;
    tenant.sequences += cache.num_sequences();
    tenant.kv_bytes +=
        Bytes(static_cast<uint64_t>(Describe(cache).num_slabs) * cache.layout.slab_bytes().value());
  });
  sessions_.ForEach(
      [&](SessionId, const Session& session) { ++counted[session.tenant.value()].sessions; });
  absl::Status status;
  tenants_.ForEach([&](const Tenant& tenant) {
    const TenantInfo held = tenant.Info();
    const TenantInfo& is = counted[tenant.index().value()];
    if (held.caches == is.caches && held.sessions == is.sessions &&
        held.sequences == is.sequences && held.kv_bytes == is.kv_bytes) {
      return;
    }
    status.Update(absl::InternalError(absl::StrFormat(
        "tenant '%s' counts %d caches, %d sessions, %d sequences, %d bytes; has %d, %d, %d, %d",
        held.name, held.caches, held.sessions, held.sequences, held.kv_bytes.value(), is.caches,
        is.sessions, is.sequences, is.kv_bytes.value())));
  });
  return status;
}

// Sessions and sequences name each other, and each sequence agrees with itself.
absl::Status KvCache::Impl::CheckSequences(const SlotTable<SequenceId, Sequence>& sequences,
                                           const SessionTable& sessions) {
  absl::Status status;
  sequences.ForEach([&](SequenceId id, const Sequence& sequence) {
    if (!status.ok()) return;
    const std::string where = absl::StrCat("sequence ", ToString(id));
    const Session* session = sessions.Find(sequence.session());
    if (session == nullptr || !session->sequences.contains(id)) {
      status = absl::InternalError(absl::StrCat(where, ": its session does not know it"));
      return;
    }
    status = In(where, sequence.CheckIntegrity());
  });
  ATTND_RETURN_IF_ERROR(status);
  int64_t listed = 0;
  sessions.ForEach([&](SessionId, const Session& session) {
    listed += static_cast<int64_t>(session.sequences.size());
  });
  if (listed != sequences.size()) {
    return absl::InternalError(
        absl::StrFormat("sessions list %d sequences of %d", listed, sequences.size()));
  }
  return absl::OkStatus();
}

// An allocator's counts against what the cache's sequences on that device own and were promised.
absl::Status KvCache::Impl::CheckCache(const Cache& cache, DeviceIndex device,
                                       const SlotTable<SequenceId, Sequence>& sequences) {
  const auto& [pages, prefixes, counted_sequences] = cache.devices[device.value()];
  const size_t num_ids = pages.num_page_ids();
  std::vector<uint32_t> owners(num_ids, 0);
  PageCount promised;
  int64_t num_sequences = 0;
  bool in_range = true;
  sequences.ForEach([&](SequenceId, const Sequence& sequence) {
    if (&sequence.cache() != &cache || sequence.device() != device) return;
    ++num_sequences;
    promised += sequence.pages().promised();
    sequence.pages().ForEachOwned([&](PageId page) {
      in_range = in_range && page.value() < num_ids;
      if (in_range) ++owners[page.value()];
    });
  });
  prefixes.ForEach([&](PageId page) {
    in_range = in_range && page.value() < num_ids;
    if (in_range) ++owners[page.value()];
  });
  if (!in_range) {
    return absl::InternalError("a sequence or the index owns a page that does not exist");
  }
  if (num_sequences != counted_sequences) {
    return absl::InternalError(
        absl::StrFormat("counts %d sequences, has %d", counted_sequences, num_sequences));
  }
  if (promised != pages.promised()) {
    return absl::InternalError(absl::StrFormat("%d pages are promised, %d to sequences",
                                               pages.promised().value(), promised.value()));
  }
  ATTND_RETURN_IF_ERROR(prefixes.CheckIntegrity());
  return pages.CheckIntegrity(owners);
}

}  // namespace attnd
