// SPDX-License-Identifier: Apache-2.0
#include "kv_cache/page_allocator.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"
#include "kv_cache/check.h"

namespace attnd {
namespace {

// All bits set is a NaN in each storage type.
constexpr int kPoisonByte = 0xff;

}  // namespace

PageAllocator::PageAllocator(const CacheGeometry& geometry, std::byte* base, SlabSource& source,
                             PageQuota& quota, const Options& options)
    : layout_(SlabLayout::For(geometry)),
      num_layers_(geometry.num_layers),
      base_(base),
      source_(source),
      quota_(quota),
      options_(options) {}

PageAllocator::~PageAllocator() {
  for (const SuperblockRun& run : HeldRuns()) source_.ReturnSlab(*this, run);
  quota_.taken -= used_ + promised_;
}

std::optional<PageShortage> PageAllocator::Promise(PageCount count) {
  if (quota_.limit > PageCount(0)) {
    const PageCount headroom = quota_.limit - quota_.taken;
    if (count > headroom) {
      return PageShortage{
          .needed = count, .free = std::max(headroom, PageCount(0)), .by_quota = true};
    }
  }
  if (count > unpromised() && !Grow(count)) {
    // Superblocks that are free but not in one piece do not count.
    return PageShortage{.needed = count, .free = std::min(available(), count - PageCount(1))};
  }
  promised_ += count;
  quota_.taken += count;
  return std::nullopt;
}

void PageAllocator::Unpromise(PageCount count) {
  ATTND_CHECK(count <= promised_, "returned more pages than were promised");
  promised_ -= count;
  quota_.taken -= count;
}

PageId PageAllocator::TakePromised() {
  ATTND_CHECK(promised_ > PageCount(0), "took a page that was not promised");
  const int32_t slot = slabs_by_free_.begin()->second;
  Slab& slab = slabs_[static_cast<size_t>(slot)];
  const PageId id(slab.first_free);
  Page& page = pages_[id.value()];
  slab.first_free = page.next_free;
  page.next_free = kNoPage;
  page.refcount = 1;
  ChangeFree(slot, -1);
  --free_;
  --promised_;
  ++used_;
  return id;
}

void PageAllocator::Unref(PageId id) {
  Page& page = pages_[id.value()];
  ATTND_CHECK(page.refcount > 0, "page freed twice");
  if (--page.refcount > 0) return;
  ++page.generation;
  if (options_.poison_free_pages) Poison(id);
  const int32_t slot = SlabOf(id);
  Slab& slab = slabs_[static_cast<size_t>(slot)];
  page.next_free = slab.first_free;
  slab.first_free = id.value();
  ChangeFree(slot, +1);
  ++free_;
  --used_;
  --quota_.taken;
}

std::optional<SuperblockRun> PageAllocator::GiveBackEmptySlab() {
  if (reclaimable_superblocks() == 0) return std::nullopt;
  const int32_t slot = slabs_by_free_.rbegin()->second;
  const SuperblockRun run = slabs_[static_cast<size_t>(slot)].run;
  RemoveSlab(slot);
  return run;
}

int64_t PageAllocator::reclaimable_superblocks() const {
  const int64_t unpromised_slabs = unpromised().value() / layout_.pages_per_slab;
  return std::min(num_empty_slabs_, unpromised_slabs) * layout_.superblocks_per_slab;
}

PageCount PageAllocator::available() const {
  const int64_t slabs = source_.AvailableSuperblocks(*this) / layout_.superblocks_per_slab;
  return unpromised() + PageCount(slabs * layout_.pages_per_slab);
}

uint64_t PageAllocator::OffsetBytes(PageId page) const {
  const uint32_t index = page.value() % static_cast<uint32_t>(layout_.pages_per_slab);
  return slabs_[static_cast<size_t>(SlabOf(page))].offset_bytes + index * layout_.row_bytes;
}

PageCopy PageAllocator::Copy(PageId from, PageId to) const {
  return {.destination = base_ + OffsetBytes(to),
          .source = base_ + OffsetBytes(from),
          .row_bytes = layout_.row_bytes,
          .layer_stride_bytes = layout_.layer_stride_bytes,
          .num_layers = num_layers_};
}

std::vector<SuperblockRun> PageAllocator::HeldRuns() const {
  std::vector<SuperblockRun> runs;
  for (const Slab& slab : slabs_) {
    if (slab.run.count > 0) runs.push_back(slab.run);
  }
  return runs;
}

// Makes `count` unpromised pages, or as many as there are slabs for.
bool PageAllocator::Grow(PageCount count) {
  const int64_t slabs_needed =
      (shortfall(count).value() + layout_.pages_per_slab - 1) / layout_.pages_per_slab;
  // Do not take other caches' slabs for what cannot succeed.
  if (slabs_needed > source_.AvailableSuperblocks(*this) / layout_.superblocks_per_slab) {
    return false;
  }
  while (count > unpromised() && AddSlab()) {
  }
  if (count > unpromised()) RepackEmptySlabs(count);
  // Here is where pages would be moved to make longer runs.
  return count <= unpromised();
}

bool PageAllocator::AddSlab() {
  const uint64_t pages_per_slab = static_cast<uint64_t>(layout_.pages_per_slab);
  const bool new_slot = vacant_slots_.empty();
  if (new_slot && (slabs_.size() + 1) * pages_per_slab > kNoPage) return false;
  const std::optional<SuperblockRun> run = source_.TakeSlab(*this, layout_.superblocks_per_slab);
  if (!run) return false;
  if (new_slot) {
    vacant_slots_.insert(static_cast<int32_t>(slabs_.size()));
    slabs_.emplace_back();
    pages_.resize(pages_.size() + pages_per_slab);
  }
  const int32_t slot = *vacant_slots_.begin();
  vacant_slots_.erase(vacant_slots_.begin());
  Slab& slab = slabs_[static_cast<size_t>(slot)];
  slab.run = *run;
  slab.offset_bytes = DevicePool::OffsetBytes(*run);
  slab.num_free = layout_.pages_per_slab;
  slab.first_free = static_cast<uint32_t>(slot) * static_cast<uint32_t>(pages_per_slab);
  // Threaded in ascending order: a sequence that grows in a fresh slab lies in one piece.
  for (uint32_t i = 0; i < pages_per_slab; ++i) {
    const uint32_t id = slab.first_free + i;
    pages_[id].next_free = i + 1 < pages_per_slab ? id + 1 : kNoPage;
  }
  if (options_.poison_free_pages) {
    std::memset(base_ + slab.offset_bytes, kPoisonByte, layout_.slab_bytes().value());
  }
  slabs_by_free_.insert({slab.num_free, slot});
  ++num_slabs_;
  ++num_empty_slabs_;
  free_ += PageCount(layout_.pages_per_slab);
  return true;
}

void PageAllocator::RemoveSlab(int32_t slot) {
  Slab& slab = slabs_[static_cast<size_t>(slot)];
  ATTND_CHECK(slab.num_free == layout_.pages_per_slab, "gave up a slab with pages in use");
  slabs_by_free_.erase({slab.num_free, slot});
  slab = Slab();
  vacant_slots_.insert(slot);
  --num_slabs_;
  --num_empty_slabs_;
  free_ -= PageCount(layout_.pages_per_slab);
}

// Returns all empty slabs and takes new ones: together with free runs beside them they may hold
// more. Never fewer, since each returned slab leaves room for one.
void PageAllocator::RepackEmptySlabs(PageCount count) {
  const int64_t returned = num_empty_slabs_;
  while (num_empty_slabs_ > 0) {
    const int32_t slot = slabs_by_free_.rbegin()->second;
    const SuperblockRun run = slabs_[static_cast<size_t>(slot)].run;
    RemoveSlab(slot);
    source_.ReturnSlab(*this, run);
  }
  while ((num_empty_slabs_ < returned || count > unpromised()) && AddSlab()) {
  }
  ATTND_CHECK(num_empty_slabs_ >= returned, "lost slabs while repacking them");
}

void PageAllocator::ChangeFree(int32_t slot, int32_t delta) {
  Slab& slab = slabs_[static_cast<size_t>(slot)];
  const int32_t before = slab.num_free;
  slab.num_free += delta;
  if (before == layout_.pages_per_slab) --num_empty_slabs_;
  if (slab.num_free == layout_.pages_per_slab) ++num_empty_slabs_;
  if (before == 0) {
    slabs_by_free_.insert({slab.num_free, slot});
  } else if (slab.num_free == 0) {
    slabs_by_free_.erase({before, slot});
  } else {
    auto node = slabs_by_free_.extract({before, slot});
    node.value().first = slab.num_free;
    slabs_by_free_.insert(std::move(node));
  }
}

void PageAllocator::Poison(PageId page) {
  std::byte* row = base_ + OffsetBytes(page);
  for (int32_t layer = 0; layer < num_layers_; ++layer) {
    std::memset(row, kPoisonByte, layout_.row_bytes);
    row += layout_.layer_stride_bytes;
  }
}

absl::Status PageAllocator::CheckIntegrity(std::span<const uint32_t> expected_refcounts) const {
  int64_t used = 0;
  for (size_t id = 0; id < pages_.size(); ++id) {
    if (pages_[id].refcount != expected_refcounts[id]) {
      return absl::InternalError(absl::StrFormat("page %d has refcount %d and %d owners", id,
                                                 pages_[id].refcount, expected_refcounts[id]));
    }
    if (pages_[id].refcount > 0) ++used;
  }
  int64_t free = 0, slabs = 0, empty = 0;
  size_t with_free = 0;
  for (int32_t slot = 0; slot < static_cast<int32_t>(slabs_.size()); ++slot) {
    ATTND_RETURN_IF_ERROR(CheckSlab(slot));
    const Slab& slab = slabs_[static_cast<size_t>(slot)];
    if (slab.run.count == 0) continue;
    ++slabs;
    free += slab.num_free;
    if (slab.num_free > 0) ++with_free;
    if (slab.num_free == layout_.pages_per_slab) ++empty;
  }
  if (used != used_.value() || free != free_.value() || slabs != num_slabs_ ||
      empty != num_empty_slabs_ || with_free != slabs_by_free_.size()) {
    return absl::InternalError(absl::StrFormat(
        "counts %d used, %d free, %d slabs, %d empty; has %d, %d, %d, %d", used_.value(),
        free_.value(), num_slabs_, num_empty_slabs_, used, free, slabs, empty));
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
  if (num_free > 0 && !slabs_by_free_.contains({num_free, slot})) {
    return absl::InternalError(absl::StrFormat("slab %d is missing among those with pages", slot));
  }
  return absl::OkStatus();
}

}  // namespace attnd
