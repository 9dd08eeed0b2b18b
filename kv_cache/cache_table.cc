// SPDX-License-Identifier: Apache-2.0
#include "kv_cache/cache_table.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/dtype.h"
#include "kernels/base/status_macros.h"
#include "kv_cache/check.h"
#include "kv_cache/error_detail.h"
#include "kv_cache/slab_choice.h"

namespace attnd {
namespace {

constexpr size_t kMaxNameBytes = 128;

absl::Status CheckName(std::string_view name) {
  const bool valid = !name.empty() && name.size() <= kMaxNameBytes &&
                     std::all_of(name.begin(), name.end(), [](char c) {
                       return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' ||
                              c == '_' || c == '-';
                     });
  if (valid) return absl::OkStatus();
  // The name itself may be anything, so it is not repeated.
  return absl::InvalidArgumentError(absl::StrFormat(
      "the cache name has %d bytes; it must be 1 to %d characters of [A-Za-z0-9._-]", name.size(),
      kMaxNameBytes));
}

absl::Status CheckSame(std::string_view name, const CacheGeometry& held,
                       const CacheGeometry& asked) {
  const auto differs = [&](const char* field, auto held_value, auto asked_value) {
    return absl::FailedPreconditionError(absl::StrCat("cache '", std::string(name),
                                                      "' is open with geometry.", field, " ",
                                                      held_value, ", not ", asked_value));
  };
  if (held.num_layers != asked.num_layers) {
    return differs("num_layers", held.num_layers, asked.num_layers);
  }
  if (held.num_query_heads != asked.num_query_heads) {
    return differs("num_query_heads", held.num_query_heads, asked.num_query_heads);
  }
  if (held.num_kv_heads != asked.num_kv_heads) {
    return differs("num_kv_heads", held.num_kv_heads, asked.num_kv_heads);
  }
  if (held.head_dim_k != asked.head_dim_k) {
    return differs("head_dim_k", held.head_dim_k, asked.head_dim_k);
  }
  if (held.head_dim_v != asked.head_dim_v) {
    return differs("head_dim_v", held.head_dim_v, asked.head_dim_v);
  }
  if (held.kv_dtype != asked.kv_dtype) {
    return differs("kv_dtype", std::string(Name(held.kv_dtype)), std::string(Name(asked.kv_dtype)));
  }
  if (held.page_size_tokens != asked.page_size_tokens) {
    return differs("page_size_tokens", held.page_size_tokens, asked.page_size_tokens);
  }
  return absl::OkStatus();
}

// OK where the tenant's limit has room for one slab at least.
absl::Status CheckFitsTenant(std::string_view name, const SlabLayout& layout,
                             const Tenant& tenant) {
  if (layout.superblocks_per_slab <= tenant.superblocks_limit()) return absl::OkStatus();
  return AttachErrorDetail(
      absl::ResourceExhaustedError(absl::StrFormat(
          "a slab of cache '%s' takes %d superblocks of 2 MiB, more than %s; smaller pages or a "
          "higher limit would do",
          name, layout.superblocks_per_slab, tenant.DescribeKvLimit())),
      {.reason = ErrorReason::kTenantLimit, .needed_pages = PageCount(layout.pages_per_slab)});
}

// With a new one counted; where no device has a page left, the fewest sequences decide.
double PagesPerSequence(const CacheOnDevice& device) {
  return static_cast<double>(device.pages.available().value() + 1) /
         static_cast<double>(device.num_sequences + 1);
}

}  // namespace

int64_t Cache::num_sequences() const {
  int64_t sum = 0;
  for (const CacheOnDevice& device : devices) sum += device.num_sequences;
  return sum;
}

CacheTable::CacheTable(std::span<const std::span<std::byte>> pools, TenantTable& tenants,
                       const Options& options)
    : options_(options),
      tenants_(tenants),
      pools_(pools.begin(), pools.end()),
      fenced_(pools.size()),
      caches_(options.boot, options.max_caches) {}

absl::StatusOr<CacheTable::Opened> CacheTable::Open(std::string_view name,
                                                    const CacheGeometry& geometry, PageCount quota,
                                                    TenantIndex tenant_index) {
  ATTND_RETURN_IF_ERROR(CheckName(name));
  ATTND_RETURN_IF_ERROR(geometry.Validate());
  if (quota < PageCount(0)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("page_quota is %d; it must not be negative", quota.value()));
  }
  std::pair key(tenant_index, std::string(name));
  if (const auto known = by_name_.find(key); known != by_name_.end()) {
    Cache& cache = *caches_.Find(known->second);
    ATTND_RETURN_IF_ERROR(CheckSame(name, cache.geometry, geometry));
    if (quota > PageCount(0)) cache.quota.limit = quota;
    return Opened{.cache = &cache, .created = false};
  }
  const SlabLayout layout = SlabLayout::For(geometry);
  int64_t largest_pool = 0;
  for (const DevicePool& pool : pools_) {
    largest_pool = std::max(largest_pool, pool.num_superblocks());
  }
  if (layout.superblocks_per_slab > largest_pool) {
    return AttachErrorDetail(
        absl::ResourceExhaustedError(absl::StrFormat(
            "a slab of cache '%s' takes %d superblocks of 2 MiB and the pool has %d; smaller pages "
            "or a larger pool would do",
            name, layout.superblocks_per_slab, largest_pool)),
        {.reason = ErrorReason::kPagesExhausted, .needed_pages = PageCount(layout.pages_per_slab)});
  }
  Tenant& tenant = tenants_.At(tenant_index);
  ATTND_RETURN_IF_ERROR(CheckFitsTenant(name, layout, tenant));
  ATTND_RETURN_IF_ERROR(tenant.CheckRoomForCache());
  if (caches_.full()) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%d caches are open, the most allowed; closing one makes room", caches_.size()));
  }
  const CacheId id = *caches_.Insert(std::make_unique<Cache>(name, geometry, tenant));
  Cache& cache = *caches_.Find(id);
  cache.id = id;
  cache.quota.limit = quota;
  tenant.AddCaches(1);
  for (size_t i = 0; i < pools_.size(); ++i) {
    const PageAllocator::Options page_options{.device = DeviceIndex(static_cast<uint32_t>(i)),
                                              .tenant = tenant_index,
                                              .poison_free_pages = options_.poison_free_pages};
    cache.devices.emplace_back(geometry, pools_[i].base(), *this, cache.quota, prefix_use_,
                               page_options);
  }
  by_name_.emplace(std::move(key), id);
  return Opened{.cache = &cache, .created = true};
}

absl::Status CacheTable::Close(CacheId id, TenantIndex tenant) {
  Cache* cache = Find(id, tenant);
  if (cache == nullptr) return NotFound(id);
  if (const int64_t live = cache->num_sequences(); live > 0) {
    return absl::FailedPreconditionError(
        absl::StrFormat("%d sequences live in cache '%s'; free them first", live, cache->name));
  }
  by_name_.erase({tenant, cache->name});
  cache->tenant.AddCaches(-1);
  caches_.Erase(id);  // the allocator gives its slabs back
  return absl::OkStatus();
}

absl::Status CacheTable::NotFound(CacheId id) {
  return AttachErrorDetail(absl::NotFoundError(absl::StrCat("cache ", ToString(id), " not found")),
                           {.reason = ErrorReason::kStaleId});
}

absl::StatusOr<DeviceIndex> CacheTable::Place(const Cache& cache) const {
  const CacheOnDevice* best = nullptr;
  for (const CacheOnDevice& device : cache.devices) {
    if (!fenced(device.pages.device()).empty()) continue;
    if (best == nullptr || PagesPerSequence(device) > PagesPerSequence(*best)) best = &device;
  }
  if (best == nullptr) return absl::InternalError(fenced_.front());
  return best->pages.device();
}

CacheTable::Match CacheTable::FindPrefix(const Cache& cache, std::string_view scope,
                                         std::span<const std::string_view> keys) const {
  Match best;
  for (const CacheOnDevice& device : cache.devices) {  // fenced ones have no prefixes
    std::vector<PageId> run = device.prefixes.Match(scope, keys);
    if (run.empty() || run.size() < best.run.size()) continue;
    if (run.size() == best.run.size() &&
        PagesPerSequence(device) <= PagesPerSequence(cache.devices[best.device->value()])) {
      continue;
    }
    best = {.device = device.pages.device(), .run = std::move(run)};
  }
  return best;
}

void CacheTable::Fence(DeviceIndex device, std::string cause) {
  std::string& fenced = fenced_[device.value()];
  if (fenced.empty()) fenced = std::move(cause);
  caches_.ForEach([&](CacheId, Cache& cache) { cache.on(device).prefixes.Clear(); });
}

std::optional<SuperblockRun> CacheTable::TakeSlab(const PageAllocator& taker, int64_t superblocks) {
  if (!MakeTenantRoom(taker, superblocks, /*before=*/0)) return std::nullopt;
  std::optional<SuperblockRun> run = TakeRun(taker, superblocks);
  caches_.ForEach([&](CacheId, Cache& cache) {
    PageAllocator& pages = cache.on(taker.device()).pages;
    if (&pages == &taker) return;
    while (!run.has_value()) {
      const std::optional<SuperblockRun> given_up = pages.GiveBackEmptySlab();
      if (!given_up) return;
      MoveSlab(pages, *given_up);
      run = TakeRun(taker, superblocks);
    }
  });
  return run;
}

std::optional<SuperblockRun> CacheTable::TakeRun(const PageAllocator& taker, int64_t superblocks) {
  const std::optional<SuperblockRun> run = pools_[taker.device().value()].Allocate(superblocks);
  if (run) tenants_.At(taker.tenant()).AddSuperblocks(superblocks);
  return run;
}

void CacheTable::ReturnSlab(const PageAllocator& giver, SuperblockRun run) {
  pools_[giver.device().value()].Free(run);
  tenants_.At(giver.tenant()).AddSuperblocks(-run.count);
}

void CacheTable::MoveSlab(const PageAllocator& giver, SuperblockRun run) {
  ReturnSlab(giver, run);
  ++slabs_moved_total_;
}

template <typename Visit>
void CacheTable::ForEachOfSameTenant(const PageAllocator& taker, Visit visit) {
  caches_.ForEach([&](CacheId, Cache& cache) {
    if (cache.tenant.index() != taker.tenant()) return;
    for (CacheOnDevice& device : cache.devices) {
      if (&device.pages != &taker) visit(device.pages);
    }
  });
}

bool CacheTable::MakeTenantRoom(const PageAllocator& taker, int64_t superblocks, uint64_t before) {
  Tenant& tenant = tenants_.At(taker.tenant());
  if (superblocks <= tenant.superblocks_left()) return true;
  ForEachOfSameTenant(taker, [&](PageAllocator& pages) {
    while (superblocks > tenant.superblocks_left()) {
      const std::optional<SuperblockRun> given_up = pages.GiveBackEmptySlab();
      if (!given_up) return;
      MoveSlab(pages, *given_up);
    }
  });
  if (superblocks <= tenant.superblocks_left()) return true;
  const std::vector<EvictableSlab> slabs = EvictableSlabs(taker, before, Of::kSameTenant);
  int64_t could_be = tenant.superblocks_left();
  for (const EvictableSlab& slab : slabs) could_be += slab.run.count;
  if (superblocks > could_be) return false;
  for (const EvictableSlab& slab : slabs) {
    if (superblocks <= tenant.superblocks_left()) break;
    MoveSlab(*slab.owner, slab.owner->EvictSlab(slab.slot));
  }
  return true;
}

int64_t CacheTable::AvailableSuperblocks(const PageAllocator& taker) const {
  const size_t device = taker.device().value();
  const int64_t left = std::max<int64_t>(tenants_.At(taker.tenant()).superblocks_left(), 0);
  int64_t available = pools_[device].free_superblocks(), within_limit = 0;
  caches_.ForEach([&](CacheId, const Cache& cache) {
    for (const CacheOnDevice& one : cache.devices) {
      const PageAllocator& pages = one.pages;
      if (&pages == &taker) continue;
      const int64_t could_go = pages.reclaimable_superblocks() + pages.evictable_superblocks();
      if (pages.device() == taker.device()) available += could_go;
      if (pages.tenant() == taker.tenant()) within_limit += could_go;
    }
  });
  // `left` may be as good as infinite.
  return available - left <= within_limit ? available : left + within_limit;
}

std::optional<SuperblockRun> CacheTable::EvictSlab(const PageAllocator& taker, int64_t superblocks,
                                                   uint64_t before) {
  if (!MakeTenantRoom(taker, superblocks, before)) return std::nullopt;
  // What made room within the tenant's limit may have made it here.
  if (const std::optional<SuperblockRun> run = TakeRun(taker, superblocks)) return run;
  const std::vector<EvictableSlab> slabs = EvictableSlabs(taker, before, Of::kAnyTenant);
  if (slabs.empty()) return std::nullopt;
  std::vector<SuperblockRun> runs;
  runs.reserve(slabs.size());
  for (const EvictableSlab& slab : slabs) runs.push_back(slab.run);
  const std::vector<size_t> chosen =
      ChooseSlabs(pools_[taker.device().value()].FreeRuns(), runs, superblocks);
  if (chosen.empty()) return std::nullopt;
  for (const size_t i : chosen) {
    MoveSlab(*slabs[i].owner, slabs[i].owner->EvictSlab(slabs[i].slot));
  }
  return TakeRun(taker, superblocks);
}

int64_t CacheTable::CountSlabs(const PageAllocator& taker, int64_t superblocks) {
  std::vector<SuperblockRun> runs;
  for (const EvictableSlab& slab : EvictableSlabs(taker, UINT64_MAX, Of::kAnyTenant)) {
    runs.push_back(slab.run);
  }
  const int64_t pieces = CountPieces(pools_[taker.device().value()].FreeRuns(), runs, superblocks);
  const int64_t left = tenants_.At(taker.tenant()).superblocks_left();
  if (left / superblocks >= pieces) return pieces;
  int64_t within_limit = left;
  for (const EvictableSlab& slab : EvictableSlabs(taker, UINT64_MAX, Of::kSameTenant)) {
    within_limit += slab.run.count;
  }
  return std::clamp<int64_t>(within_limit / superblocks, 0, pieces);
}

void CacheTable::EvictForQuota(const PageAllocator& taker, PageCount count) {
  Cache* owner = nullptr;
  caches_.ForEach([&](CacheId, Cache& cache) {
    if (&cache.on(taker.device()).pages == &taker) owner = &cache;
  });
  ATTND_CHECK(owner != nullptr, "an allocator of no cache asked for pages");
  for (; count > PageCount(0); --count) {
    const auto oldest = std::min_element(owner->devices.begin(), owner->devices.end(),
                                         [](const CacheOnDevice& a, const CacheOnDevice& b) {
                                           return a.pages.OldestIdleUse() < b.pages.OldestIdleUse();
                                         });
    oldest->pages.EvictOldest();
  }
}

std::vector<EvictableSlab> CacheTable::EvictableSlabs(const PageAllocator& taker, uint64_t before,
                                                      Of of) {
  std::vector<EvictableSlab> slabs;
  caches_.ForEach([&](CacheId, Cache& cache) {
    for (CacheOnDevice& device : cache.devices) {
      PageAllocator& pages = device.pages;
      const bool wanted = of == Of::kSameTenant ? pages.tenant() == taker.tenant()
                                                : pages.device() == taker.device();
      if (wanted && &pages != &taker && pages.OldestEvictableUse() < before) {
        pages.AppendEvictable(before, slabs);
      }
    }
  });
  std::sort(slabs.begin(), slabs.end(),
            [](const EvictableSlab& a, const EvictableSlab& b) { return a.last_use < b.last_use; });
  return slabs;
}

}  // namespace attnd
