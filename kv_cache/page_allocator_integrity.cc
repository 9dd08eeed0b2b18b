// SPDX-License-Identifier: Apache-2.0
//
// The walk over an allocator's pages and slabs that finds any disagreement.
#include <algorithm>
#include <span>
#include <vector>

#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"
#include "kv_cache/page_allocator.h"

namespace attnd {

absl::Status PageAllocator::CheckIntegrity(std::span<const uint32_t> expected_refcounts) const {
  int64_t used = 0, idle = 0;
  for (size_t id = 0; id < pages_.size(); ++id) {
    if (pages_[id].refcount != expected_refcounts[id]) {
      return absl::InternalError(absl::StrFormat("page %d has refcount %d and %d owners", id,
                                                 pages_[id].refcount, expected_refcounts[id]));
    }
    if (pages_[id].refcount > pages_[id].published) {
      ++used;
    } else if (pages_[id].refcount > 0) {
      ++idle;
    }
  }
  int64_t free = 0, slabs = 0, empty = 0;
  size_t with_free = 0, evictable = 0;
  for (int32_t slot = 0; slot < static_cast<int32_t>(slabs_.size()); ++slot) {
    ATTND_RETURN_IF_ERROR(CheckSlab(slot));
    const Slab& slab = slabs_[static_cast<size_t>(slot)];
    if (slab.run.count == 0) continue;
    ++slabs;
    free += slab.num_free;
    if (slab.num_free > 0) ++with_free;
    if (slab.listed_as > 0) ++evictable;
    if (slab.num_free == layout_.pages_per_slab) ++empty;
  }
  if (used != used_.value() || idle != idle_.value() || free != free_.value() ||
      slabs != num_slabs_ || empty != num_empty_slabs_ || with_free != slabs_by_free_.size() ||
      evictable != evictable_slabs_.size()) {
    return absl::InternalError(absl::StrFormat(
        "counts %d used, %d idle, %d free, %d slabs, %d empty; has %d, %d, %d, %d, %d",
        used_.value(), idle_.value(), free_.value(), num_slabs_, num_empty_slabs_, used, idle, free,
        slabs, empty));
  }
  if (promised_ > free_ || promised_ < PageCount(0)) {
    return absl::InternalError(
        absl::StrFormat("promises %d pages of %d free ones", promised_.value(), free_.value()));
  }
  return absl::OkStatus();
}

absl::Status PageAllocator::CheckSlab(int32_t slot) const {
  const Slab& slab = slabs_[static_cast<size_t>(slot)];
  const uint32_t begin = static_cast<uint32_t>(slot * layout_.pages_per_slab);
  const uint32_t end = begin + static_cast<uint32_t>(layout_.pages_per_slab);
  if (slab.run.count == 0) {
    for (uint32_t id = begin; id < end; ++id) {
      if (pages_[id].refcount > 0) {
        return absl::InternalError(absl::StrFormat("page %d is owned in a vacant slab", id));
      }
    }
    return absl::OkStatus();
  }
  std::vector<bool> listed(end - begin, false);
  int32_t num_free = 0;
  for (uint32_t id = slab.first_free; id != kNoPage; id = pages_[id].next_free) {
    if (id < begin || id >= end || listed[id - begin] || pages_[id].refcount > 0) {
      return absl::InternalError(absl::StrFormat("slab %d: bad free list at page %d", slot, id));
    }
    listed[id - begin] = true;
    ++num_free;
  }
  const auto owned = std::count_if(pages_.begin() + begin, pages_.begin() + end,
                                   [](const Page& page) { return page.refcount > 0; });
  if (num_free != slab.num_free || num_free + owned != layout_.pages_per_slab) {
    return absl::InternalError(
        absl::StrFormat("slab %d: %d pages listed, %d counted free, %d owned", slot, num_free,
                        slab.num_free, owned));
  }
  const auto idle = std::count_if(
      pages_.begin() + begin, pages_.begin() + end,
      [](const Page& page) { return page.refcount > 0 && page.refcount == page.published; });
  const bool evictable = idle > 0 && idle + num_free == layout_.pages_per_slab;
  if (idle != slab.num_idle || (idle == 0) != (slab.last_use == 0) ||
      slab.listed_as != (evictable ? slab.last_use : 0) ||
      (evictable && !evictable_slabs_.contains({slab.last_use, slot}))) {
    return absl::InternalError(
        absl::StrFormat("slab %d: %d pages idle, %d counted, listed as used at %d of %d", slot,
                        idle, slab.num_idle, slab.listed_as, slab.last_use));
  }
  if (num_free > 0 && !slabs_by_free_.contains({num_free, slot})) {
    return absl::InternalError(absl::StrFormat("slab %d is missing among those with pages", slot));
  }
  return absl::OkStatus();
}

}  // namespace attnd
