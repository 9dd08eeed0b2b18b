// SPDX-License-Identifier: Apache-2.0
//
// The pages of one cache on one device: which are free, promised or owned, and by how many owners.
// Published ones that only their index owns are idle: they are evicted when pages run out, after
// slabs that cost nobody anything and the least recently used first, of this cache and of others.
//
// Pages come in slabs taken from a SlabSource. A PageId is dense: slab slot times pages per slab
// plus the index within the slab. Fuller slabs are used up first, so that others run empty and can
// go back for another cache. A promise sets a free page aside for whoever was promised it: at any
// time
//   promised <= free, and used + idle + promised, on all devices together, <= quota.
// Not thread-safe: KvCache's lock guards it. Taking and freeing a page is O(log slabs), without
// allocations; evicting one, O(log pages), and emptying another cache's slab, O(slabs log slabs).
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
#include "kv_cache/access.h"
#include "kv_cache/device_pool.h"
#include "kv_cache/geometry.h"

namespace attnd {

class PageAllocator;

// The index of published pages, which holds one reference on each. It is told when it alone holds a
// page, which is idle then, and when a sequence takes the page up again.
class PublishedPages {
 public:
  virtual void PageIdle(PageId page) = 0;
  virtual void PageHeld(PageId page) = 0;
  // The idle page that was used least recently; requires one.
  virtual PageId OldestIdle() const = 0;
  // A number that rises with time, above 0, common to all caches.
  virtual uint64_t LastUse(PageId page) const = 0;
  // Forgets an idle page and unpublishes it, because pages ran out.
  virtual void Evict(PageId page) = 0;

 protected:
  ~PublishedPages() = default;
};

// Where allocators get slabs: the pool, and behind it what other caches do not use.
class SlabSource {
 public:
  // Nothing where no contiguous run of that many superblocks can be had.
  virtual std::optional<SuperblockRun> TakeSlab(const PageAllocator& taker,
                                                int64_t superblocks) = 0;
  virtual void ReturnSlab(const PageAllocator& giver, SuperblockRun run) = 0;
  // At most this many superblocks can be had, by eviction too, in runs of whatever length.
  virtual int64_t AvailableSuperblocks(const PageAllocator& taker) const = 0;

  // Where TakeSlab finds nothing: evicts idle pages of other caches, all last used before `before`,
  // so that a run comes free. Evicts nothing where none would.
  virtual std::optional<SuperblockRun> EvictSlab(const PageAllocator& taker, int64_t superblocks,
                                                 uint64_t before) = 0;
  // How many slabs TakeSlab and EvictSlab could give.
  virtual int64_t CountSlabs(const PageAllocator& taker, int64_t superblocks) = 0;
  // Evicts `count` idle pages of the taker's cache, on whatever device, the least recently used
  // first. Requires as many.
  virtual void EvictForQuota(const PageAllocator& taker, PageCount count) = 0;

 protected:
  ~SlabSource() = default;
};

// Why a promise could not be made.
struct PageShortage {
  PageCount needed;
  PageCount free;         // what could have been promised, at most, by eviction too
  bool by_quota = false;  // the cache's quota, otherwise the pool
};

// What a cache may hold, and does, on all devices together.
struct PageQuota {
  PageCount limit{};  // 0: none but the pools'
  PageCount taken{};  // used, idle and promised
  PageCount idle{};   // of these, published pages that no sequence holds
};

// A slab that eviction could empty.
struct EvictableSlab {
  SuperblockRun run;
  uint64_t last_use = 0;  // of its idle pages' most recently used, at most
  PageAllocator* owner = nullptr;
  int32_t slot = 0;
};

class PageAllocator {
 public:
  struct Options {
    DeviceIndex device;
    TenantIndex tenant{};            // whose the cache is: for the source's accounts
    bool poison_free_pages = false;  // fill free pages with NaN; host memory only
  };

  // `base` is the pool's memory and `source` hands out parts of it; these and `quota` outlive the
  // allocator, which gives all slabs back when destroyed.
  PageAllocator(const CacheGeometry& geometry, std::byte* base, SlabSource& source,
                PageQuota& quota, const Options& options);
  ~PageAllocator();
  PageAllocator(const PageAllocator&) = delete;
  PageAllocator& operator=(const PageAllocator&) = delete;

  // The index to tell, before any page is published; outlives the pages' use.
  void SetIndex(PublishedPages& index) { index_ = &index; }

  // Sets `count` pages aside, growing by slabs and evicting idle pages where needed; all or
  // nothing, and nothing is evicted where that cannot help (unless slabs of several sizes break up
  // the room that was counted on).
  [[nodiscard]] std::optional<PageShortage> Promise(PageCount count);
  void Unpromise(PageCount count);
  // Turns one promised page into an owned one with a single reference.
  PageId TakePromised();
  void Ref(PageId id) {
    Page& page = pages_[id.value()];
    if (page.refcount++ == page.published) TakeUp(id);
  }
  // The last reference frees the page; its generation goes up. The last but the index's makes it
  // idle.
  void Unref(PageId page);

  // The index's reference, for a page that a sequence holds.
  void Publish(PageId page);
  void Unpublish(PageId page);
  // An idle page was used.
  void TouchIdle(PageId page);

  // Gives an empty slab up, unless its pages are promised.
  std::optional<SuperblockRun> GiveBackEmptySlab();
  int64_t reclaimable_superblocks() const;
  // At most as many superblocks more could be given up after eviction.
  int64_t evictable_superblocks() const;
  // Of slabs that could be given up after eviction, those that were used before `before`.
  void AppendEvictable(uint64_t before, std::vector<EvictableSlab>& slabs);
  // UINT64_MAX where there is none.
  uint64_t OldestEvictableUse() const {
    return evictable_slabs_.empty() ? UINT64_MAX : evictable_slabs_.begin()->first;
  }
  // Evicts the idle pages of an evictable slab and gives it up.
  SuperblockRun EvictSlab(int32_t slot);
  // Evicts the idle page that was used least recently; requires one.
  void EvictOldest() { index_->Evict(index_->OldestIdle()); }
  uint64_t OldestIdleUse() const {
    return idle_ == PageCount(0) ? UINT64_MAX : index_->LastUse(index_->OldestIdle());
  }
  // Those that Promise could still give as far as the pool goes: at most this many, since
  // superblocks that are not in one piece count as well.
  PageCount available() const;

  uint32_t refcount(PageId page) const { return pages_[page.value()].refcount; }
  bool published(PageId page) const { return pages_[page.value()].published != 0; }
  // References but the index's.
  uint32_t holders(PageId id) const {
    const Page& page = pages_[id.value()];
    return page.refcount - static_cast<uint32_t>(page.published);
  }
  // How often the page was freed: tells a reused page from the one that was known before.
  uint64_t generation(PageId page) const { return pages_[page.value()].generation; }
  // Of the page's layer-0 row, from the pool's base.
  uint64_t OffsetBytes(PageId page) const;
  PageCopy Copy(PageId from, PageId to) const;

  DeviceIndex device() const { return options_.device; }
  TenantIndex tenant() const { return options_.tenant; }
  const SlabLayout& layout() const { return layout_; }
  PageCount used() const { return used_; }  // by sequences
  PageCount idle() const { return idle_; }
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
    uint64_t generation : 63 = 0;
    uint64_t published : 1 = 0;  // one of the references is the index's
  };
  struct Slab {
    SuperblockRun run;  // count 0: the slot is vacant
    uint64_t offset_bytes = 0;
    uint32_t first_free = kNoPage;
    int32_t num_free = 0;
    int32_t num_idle = 0;
    uint64_t last_use = 0;   // of its idle pages, at most; 0 where there are none
    uint64_t listed_as = 0;  // its last_use in evictable_slabs_; 0: it is not there
  };

  PageCount unpromised() const { return free_ - promised_; }
  PageCount shortfall(PageCount count) const { return count - unpromised(); }
  int32_t SlabOf(PageId page) const {
    return static_cast<int32_t>(page.value() / static_cast<uint32_t>(layout_.pages_per_slab));
  }
  Slab& SlabIn(int32_t slot) { return slabs_[static_cast<size_t>(slot)]; }
  std::optional<PageShortage> MakeRoom(PageCount count);
  bool Grow(PageCount count);
  bool EvictFor(PageCount count);
  bool AddSlab();
  void AdoptSlab(SuperblockRun run);
  bool CanAddSlab() const;
  void RemoveSlab(int32_t slot);
  void Free(PageId page);
  void TakeUp(PageId page);
  void ChangeIdle(PageId page, int32_t delta);
  void ListEvictable(int32_t slot);
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
  // (last_use, slot) of those whose pages are all free or idle, some idle.
  std::set<std::pair<uint64_t, int32_t>> evictable_slabs_;
  PageCount used_, idle_, free_, promised_;
  PublishedPages* index_ = nullptr;
};

}  // namespace attnd
