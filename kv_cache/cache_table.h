// SPDX-License-Identifier: Apache-2.0
//
// The caches and the pool they share: names, geometries, quotas, and slabs that move by demand.
//
// A cache that needs a slab gets it from the pool; where no run is long enough, other caches give
// up slabs that stand empty. Not thread-safe: KvCache's lock guards it.
//
//   StatusOr<CacheTable::Opened> opened = caches.Open("llama", geometry, PageCount(0));
//   Cache* cache = caches.Find(opened->id);
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/units.h"
#include "kv_cache/device_pool.h"
#include "kv_cache/geometry.h"
#include "kv_cache/ids.h"
#include "kv_cache/page_allocator.h"
#include "kv_cache/slot_table.h"

namespace attnd {

struct Cache {
  Cache(std::string_view name, const CacheGeometry& geometry, std::byte* base, SlabSource& source,
        const PageAllocator::Options& options)
      : name(name), geometry(geometry), pages(geometry, base, source, options) {}

  CacheId id;
  const std::string name;
  const CacheGeometry geometry;
  PageAllocator pages;
  int64_t num_sequences = 0;
};

class CacheTable final : public SlabSource {
 public:
  struct Options {
    uint64_t boot = 0;
    int64_t max_caches = 0;
    bool poison_free_pages = false;
  };

  CacheTable(std::span<std::byte> memory, const Options& options);

  struct Opened {
    Cache* cache = nullptr;
    bool created = false;
  };
  // Idempotent by name; a quota above zero replaces the one the cache had. INVALID_ARGUMENT for a
  // bad name, geometry or quota; FAILED_PRECONDITION names the field that differs;
  // RESOURCE_EXHAUSTED where a slab is larger than the pool, or too many caches are open.
  absl::StatusOr<Opened> Open(std::string_view name, const CacheGeometry& geometry,
                              PageCount quota);
  // NOT_FOUND, or FAILED_PRECONDITION while sequences live in it.
  absl::Status Close(CacheId id);

  // Null where there is none, or none any more.
  Cache* Find(CacheId id) { return caches_.Find(id); }
  static absl::Status NotFound(CacheId id);

  const DevicePool& pool() const { return pool_; }
  uint64_t slabs_moved_total() const { return slabs_moved_total_; }
  // visit(const Cache&), in the order of slots.
  template <typename Visit>
  void ForEach(Visit visit) const {
    caches_.ForEach([&](CacheId, const Cache& cache) { visit(cache); });
  }

  // SlabSource.
  std::optional<SuperblockRun> TakeSlab(const PageAllocator& taker, int64_t superblocks) override;
  void ReturnSlab(SuperblockRun run) override { pool_.Free(run); }
  int64_t AvailableSuperblocks(const PageAllocator& taker) const override;

 private:
  const Options options_;
  DevicePool pool_;
  SlotTable<CacheId, Cache> caches_;
  std::map<std::string, CacheId, std::less<>> by_name_;
  uint64_t slabs_moved_total_ = 0;
};

}  // namespace attnd
