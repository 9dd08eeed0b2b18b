// SPDX-License-Identifier: Apache-2.0
//
// The caches and the pools they share, one a device: names, geometries, quotas, and slabs that move
// by demand.
//
// A name is the tenant's: two tenants have two caches of one name, and neither finds the other's.
// A cache has pages on every device, and an index of those that are published. Where it needs a
// slab it gets it from that device's pool; where no run is long enough, other caches give up slabs
// that stand empty there, and then those with nothing but idle prefixes. A tenant whose limit is
// reached gets a slab only for one that its own caches give up. Not thread-safe: KvCache's lock
// guards it.
//
//   StatusOr<CacheTable::Opened> opened = caches.Open("llama", geometry, PageCount(0));
//   Cache* cache = caches.Find(opened->id);
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/units.h"
#include "kv_cache/device_pool.h"
#include "kv_cache/geometry.h"
#include "kv_cache/ids.h"
#include "kv_cache/page_allocator.h"
#include "kv_cache/prefix_index.h"
#include "kv_cache/slot_table.h"
#include "kv_cache/tenant_table.h"

namespace attnd {

struct CacheOnDevice {
  CacheOnDevice(const CacheGeometry& geometry, std::byte* base, SlabSource& source,
                PageQuota& quota, PrefixUse& use, const PageAllocator::Options& options)
      : pages(geometry, base, source, quota, options), prefixes(pages, use) {}

  PageAllocator pages;
  PrefixIndex prefixes;
  int64_t num_sequences = 0;
};

struct Cache {
  Cache(std::string_view name, const CacheGeometry& geometry, Tenant& tenant)
      : name(name), geometry(geometry), layout(SlabLayout::For(geometry)), tenant(tenant) {}

  CacheOnDevice& on(DeviceIndex device) { return devices[device.value()]; }
  // Over all devices.
  int64_t num_sequences() const;

  CacheId id;
  const std::string name;
  const CacheGeometry geometry;
  const SlabLayout layout;
  Tenant& tenant;
  // Below what is in use it stops growth and takes nothing away.
  PageQuota quota;
  std::deque<CacheOnDevice> devices;  // by DeviceIndex
};

class CacheTable final : public SlabSource {
 public:
  struct Options {
    uint64_t boot = 0;
    int64_t max_caches = 0;
    bool poison_free_pages = false;
  };

  // One pool for each span, which is that device's memory. `tenants` outlives the table.
  CacheTable(std::span<const std::span<std::byte>> pools, TenantTable& tenants,
             const Options& options);

  struct Opened {
    Cache* cache = nullptr;
    bool created = false;
  };
  // Idempotent by name; a quota above zero replaces the one the cache had. INVALID_ARGUMENT for a
  // bad name, geometry or quota; FAILED_PRECONDITION names the field that differs;
  // RESOURCE_EXHAUSTED where a slab is larger than every pool or the tenant's limit, or too many
  // caches are open.
  absl::StatusOr<Opened> Open(std::string_view name, const CacheGeometry& geometry, PageCount quota,
                              TenantIndex tenant = {});
  // NOT_FOUND, or FAILED_PRECONDITION while sequences live in it.
  absl::Status Close(CacheId id, TenantIndex tenant = {});

  // Null where there is none, none any more, or it is another tenant's.
  Cache* Find(CacheId id, TenantIndex tenant = {}) {
    Cache* cache = caches_.Find(id);
    return cache != nullptr && cache->tenant.index() == tenant ? cache : nullptr;
  }
  static absl::Status NotFound(CacheId id);

  // The device for a new sequence: the one with the most free pages for each sequence that the
  // cache has there, so that many empty ones spread as well. INTERNAL where all have failed.
  absl::StatusOr<DeviceIndex> Place(const Cache& cache) const;
  // What a prompt that begins with `keys` can share: the longest run on a device that works, there
  // where Place would put it among equals. No pages and no device where none is published.
  struct Match {
    std::optional<DeviceIndex> device;
    std::vector<PageId> run;
  };
  Match FindPrefix(const Cache& cache, std::string_view scope,
                   std::span<const std::string_view> keys) const;

  size_t num_devices() const { return pools_.size(); }
  const DevicePool& pool(DeviceIndex device) const { return pools_[device.value()]; }
  // A device that has failed: no sequence is placed there any more, and its prefixes are forgotten.
  // The first cause stays.
  void Fence(DeviceIndex device, std::string cause);
  // Why it failed; empty where it has not.
  const std::string& fenced(DeviceIndex device) const { return fenced_[device.value()]; }
  uint64_t slabs_moved_total() const { return slabs_moved_total_; }
  uint64_t prefix_pages_evicted_total() const { return prefix_use_.pages_evicted_total; }
  // visit(const Cache&), in the order of slots.
  template <typename Visit>
  void ForEach(Visit visit) const {
    caches_.ForEach([&](CacheId, const Cache& cache) { visit(cache); });
  }

  // SlabSource.
  std::optional<SuperblockRun> TakeSlab(const PageAllocator& taker, int64_t superblocks) override;
  void ReturnSlab(const PageAllocator& giver, SuperblockRun run) override;
  int64_t AvailableSuperblocks(const PageAllocator& taker) const override;
  std::optional<SuperblockRun> EvictSlab(const PageAllocator& taker, int64_t superblocks,
                                         uint64_t before) override;
  int64_t CountSlabs(const PageAllocator& taker, int64_t superblocks) override;
  void EvictForQuota(const PageAllocator& taker, PageCount count) override;

 private:
  enum class Of { kAnyTenant, kSameTenant };
  // Other caches' slabs that were used before `before`, in that order: any tenant's on the taker's
  // device, or the taker's tenant's on all devices.
  std::vector<EvictableSlab> EvictableSlabs(const PageAllocator& taker, uint64_t before, Of of);
  // visit(PageAllocator&): those of the taker's tenant but the taker itself.
  template <typename Visit>
  void ForEachOfSameTenant(const PageAllocator& taker, Visit visit);
  // From the pool alone, on the tenant's account.
  std::optional<SuperblockRun> TakeRun(const PageAllocator& taker, int64_t superblocks);
  void MoveSlab(const PageAllocator& giver, SuperblockRun run);
  // Brings the taker's tenant within its limit less `superblocks`: by slabs that stand empty, then,
  // where `before` is above 0, by evicting. False where that does not suffice.
  bool MakeTenantRoom(const PageAllocator& taker, int64_t superblocks, uint64_t before);

  const Options options_;
  TenantTable& tenants_;
  std::vector<DevicePool> pools_;    // by DeviceIndex
  std::vector<std::string> fenced_;  // by DeviceIndex
  PrefixUse prefix_use_;
  SlotTable<CacheId, Cache> caches_;
  std::map<std::pair<TenantIndex, std::string>, CacheId> by_name_;
  uint64_t slabs_moved_total_ = 0;
};

}  // namespace attnd
