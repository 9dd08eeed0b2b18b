// SPDX-License-Identifier: Apache-2.0
//
// What a PageAllocator does when pages run out: slabs that stand empty elsewhere first, then idle
// pages, its own or other caches', the least recently used first.
#include <algorithm>
#include <optional>
#include <vector>

#include "kv_cache/check.h"
#include "kv_cache/page_allocator.h"

namespace attnd {

void PageAllocator::TakeUp(PageId id) {
  ChangeIdle(id, -1);
  index_->PageHeld(id);
}

void PageAllocator::ChangeIdle(PageId id, int32_t delta) {
  const int32_t slot = SlabOf(id);
  Slab& slab = SlabIn(slot);
  slab.num_idle += delta;
  if (slab.num_idle == 0) {
    slab.last_use = 0;
  } else if (delta > 0) {
    slab.last_use = std::max(slab.last_use, index_->LastUse(id));
  }
  ListEvictable(slot);
  used_ -= PageCount(delta);
  idle_ += PageCount(delta);
  quota_.idle += PageCount(delta);
}

void PageAllocator::ListEvictable(int32_t slot) {
  Slab& slab = SlabIn(slot);
  const bool evictable =
      slab.num_idle > 0 && slab.num_idle + slab.num_free == layout_.pages_per_slab;
  const uint64_t listed_as = evictable ? slab.last_use : 0;
  if (listed_as == slab.listed_as) return;
  if (slab.listed_as > 0) evictable_slabs_.erase({slab.listed_as, slot});
  if (listed_as > 0) evictable_slabs_.insert({listed_as, slot});
  slab.listed_as = listed_as;
}

int64_t PageAllocator::evictable_superblocks() const {
  const int64_t slabs = num_empty_slabs_ + static_cast<int64_t>(evictable_slabs_.size());
  const int64_t unpromised_slabs = (unpromised() + idle_).value() / layout_.pages_per_slab;
  return std::min(slabs, unpromised_slabs) * layout_.superblocks_per_slab -
         reclaimable_superblocks();
}

PageCount PageAllocator::available() const {
  const int64_t slabs = source_.AvailableSuperblocks(*this) / layout_.superblocks_per_slab;
  return unpromised() + idle_ + PageCount(slabs * layout_.pages_per_slab);
}

void PageAllocator::AppendEvictable(uint64_t before, std::vector<EvictableSlab>& slabs) {
  // Each slab takes its free pages along: what is promised must stay.
  PageCount left = unpromised();
  for (const auto& [last_use, slot] : evictable_slabs_) {
    const Slab& slab = SlabIn(slot);
    left += PageCount(slab.num_idle) - PageCount(layout_.pages_per_slab);
    if (last_use >= before || left < PageCount(0)) return;
    slabs.push_back({.run = slab.run, .last_use = last_use, .owner = this, .slot = slot});
  }
}

SuperblockRun PageAllocator::EvictSlab(int32_t slot) {
  const uint32_t begin = static_cast<uint32_t>(slot * layout_.pages_per_slab);
  const uint32_t end = begin + static_cast<uint32_t>(layout_.pages_per_slab);
  for (uint32_t id = begin; id < end; ++id) {
    if (pages_[id].refcount > 0) index_->Evict(PageId(id));
  }
  const SuperblockRun run = SlabIn(slot).run;
  RemoveSlab(slot);
  return run;
}

// Makes `count` unpromised pages within the quota; or changes nothing but how many slabs stand
// empty.
std::optional<PageShortage> PageAllocator::MakeRoom(PageCount count) {
  PageCount over_quota;
  if (quota_.limit > PageCount(0)) {
    over_quota = std::max(quota_.taken + count - quota_.limit, PageCount(0));
  }
  if (over_quota > quota_.idle) {
    const PageCount could_be = count - over_quota + quota_.idle;
    return PageShortage{
        .needed = count, .free = std::max(could_be, PageCount(0)), .by_quota = true};
  }
  if (count > available() || !Grow(count)) {
    // Superblocks that are free but not in one piece do not count.
    return PageShortage{.needed = count, .free = std::min(available(), count - PageCount(1))};
  }
  if (over_quota > PageCount(0)) source_.EvictForQuota(*this, over_quota);
  while (count > unpromised()) {
    if (EvictFor(count)) continue;
    return PageShortage{.needed = count, .free = std::min(available(), count - PageCount(1))};
  }
  return std::nullopt;
}

// Adds slabs that cost nobody anything. True where `count` unpromised pages are there then, or
// eviction can give what is missing.
bool PageAllocator::Grow(PageCount count) {
  while (count > unpromised() && AddSlab()) {
  }
  if (count > unpromised()) RepackEmptySlabs(count);
  // Here is where pages would be moved to make longer runs.
  if (shortfall(count) <= idle_) return true;
  const int64_t slabs_needed =
      ((shortfall(count) - idle_).value() + layout_.pages_per_slab - 1) / layout_.pages_per_slab;
  return slabs_needed <= source_.CountSlabs(*this, layout_.superblocks_per_slab);
}

// Evicts one idle page, or another cache's slab where that was used less recently or `count` cannot
// be had without. False where nothing could be evicted.
bool PageAllocator::EvictFor(PageCount count) {
  const bool needs_slab = shortfall(count) > idle_;
  const uint64_t before = needs_slab ? UINT64_MAX : OldestIdleUse();
  if (CanAddSlab()) {
    if (const std::optional<SuperblockRun> run =
            source_.EvictSlab(*this, layout_.superblocks_per_slab, before)) {
      AdoptSlab(*run);
      return true;
    }
  }
  if (needs_slab) return false;
  EvictOldest();
  return true;
}

}  // namespace attnd
