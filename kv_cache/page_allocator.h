// SPDX-License-Identifier: Apache-2.0
//
// The pages of one cache on one device: which are free, promised or owned, and by how many owners.
//
// Pages come in slabs taken from a SlabSource. A PageId is dense: slab slot times pages per slab
// plus the index within the slab. Fuller slabs are used up first, so that others run empty and can
// go back for another cache. A promise sets a free page aside for whoever was promised it: at any
// time
//   promised <= free, and used + promised, on all devices together, <= quota.
// Not thread-safe: KvCache's lock guards it. Taking and freeing a page is O(log slabs), without
// allocations.
//
//   if (std::optional<PageShortage> shortage = allocator.Promise(PageCount(2))) return
//   Explain(*shortage); PageId page = allocator.TakePromised();   // refcount 1
//   allocator.Unref(page);
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "kernels/attention/params.h"
#include "kernels/base/units.h"
#include "kv_cache/device_pool.h"
#include "kv_cache/geometry.h"

namespace attnd {

class PageAllocator;

// Where allocators get slabs: the pool, and behind it what other caches do not use.
class SlabSource {
 public:
  // Nothing where no contiguous run of that many superblocks can be had.
  virtual std::optional<SuperblockRun> TakeSlab(const PageAllocator& taker,
                                                int64_t superblocks) = 0;
  virtual void ReturnSlab(const PageAllocator& giver, SuperblockRun run) = 0;
  // At most this many superblocks can be had, in runs of whatever length.
  virtual int64_t AvailableSuperblocks(const PageAllocator& taker) const = 0;

 protected:
  ~SlabSource() = default;
};

// Why a promise could not be made.
struct PageShortage {
  PageCount needed;
  PageCount free;         // what could have been promised, at most
  bool by_quota = false;  // the cache's quota, otherwise the pool
};

// What a cache may hold, and does, on all devices together.
struct PageQuota {
  PageCount limit;  // 0: none but the pools'
  PageCount taken;  // used and promised
};

class PageAllocator {
 public:
  struct Options {
    DeviceIndex device;
    bool poison_free_pages = false;  // fill free pages with NaN; host memory only
  };

  // `base` is the pool's memory and `source` hands out parts of it; these and `quota` outlive the
  // allocator, which gives all slabs back when destroyed.
  PageAllocator(const CacheGeometry& geometry, std::byte* base, SlabSource& source,
                PageQuota& quota, const Options& options);
  ~PageAllocator();
  PageAllocator(const PageAllocator&) = delete;
  PageAllocator& operator=(const PageAllocator&) = delete;

  // Sets `count` pages aside, growing by slabs where needed; all or nothing.
  [[nodiscard]] std::optional<PageShortage> Promise(PageCount count);
  void Unpromise(PageCount count);
  // Turns one promised page into an owned one with a single reference.
  PageId TakePromised();
  void Ref(PageId page) { ++pages_[page.value()].refcount; }
  // The last reference frees the page; its generation goes up.
  void Unref(PageId page);

  // Gives an empty slab up, unless its pages are promised.
  std::optional<SuperblockRun> GiveBackEmptySlab();
  int64_t reclaimable_superblocks() const;
  // Those that Promise could still give as far as the pool goes: at most this many, since
  // superblocks that are not in one piece count as well.
  PageCount available() const;

  uint32_t refcount(PageId page) const { return pages_[page.value()].refcount; }
  // How often the page was freed: tells a reused page from the one that was known before.
  uint64_t generation(PageId page) const { return pages_[page.value()].generation; }
  // Of the page's layer-0 row, from the pool's base.
  uint64_t OffsetBytes(PageId page) const;
  PageCopy Copy(PageId from, PageId to) const;

  DeviceIndex device() const { return options_.device; }
  const SlabLayout& layout() const { return layout_; }
  PageCount used() const { return used_; }
  PageCount free() const { return free_; }
  PageCount promised() const { return promised_; }
  int64_t num_slabs() const { return num_slabs_; }
  // Page ids are below; some may lie in slabs that were given back.
  size_t num_page_ids() const { return pages_.size(); }

  // The slabs held now, in the order of their slots.
  std::vector<SuperblockRun> HeldRuns() const;
  // INTERNAL unless counts, free lists and reference counts agree. `expected_refcounts` is indexed
  // by PageId, [num_page_ids()].
  absl::Status CheckIntegrity(std::span<const uint32_t> expected_refcounts) const;

 private:
  static constexpr uint32_t kNoPage = UINT32_MAX;

  struct Page {
    uint32_t refcount = 0;
    uint32_t next_free = kNoPage;
    uint64_t generation = 0;
  };
  struct Slab {
    SuperblockRun run;  // count 0: the slot is vacant
    uint64_t offset_bytes = 0;
    uint32_t first_free = kNoPage;
    int32_t num_free = 0;
  };

  PageCount unpromised() const { return free_ - promised_; }
  PageCount shortfall(PageCount count) const { return count - unpromised(); }
  int32_t SlabOf(PageId page) const {
    return static_cast<int32_t>(page.value() / static_cast<uint32_t>(layout_.pages_per_slab));
  }
  bool Grow(PageCount count);
  bool AddSlab();
  void RemoveSlab(int32_t slot);
  void RepackEmptySlabs(PageCount count);
  void ChangeFree(int32_t slot, int32_t delta);
  void Poison(PageId page);
  absl::Status CheckSlab(int32_t slot) const;

  const SlabLayout layout_;
  const int32_t num_layers_;
  std::byte* const base_;
  SlabSource& source_;
  PageQuota& quota_;
  const Options options_;

  std::vector<Slab> slabs_;
  std::vector<Page> pages_;  // pages_per_slab for each slot of slabs_
  std::set<int32_t> vacant_slots_;
  std::set<std::pair<int32_t, int32_t>> slabs_by_free_;  // (num_free, slot) where num_free > 0
  int64_t num_slabs_ = 0;
  int64_t num_empty_slabs_ = 0;
  PageCount used_, free_, promised_;
};

}  // namespace attnd
