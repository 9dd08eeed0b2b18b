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
  quota_.taken -= used_ + idle_ + promised_;
  quota_.idle -= idle_;
}

std::optional<PageShortage> PageAllocator::Promise(PageCount count) {
  const bool within_quota = quota_.limit == PageCount(0) || count <= quota_.limit - quota_.taken;
  if (!within_quota || count > unpromised()) {
    if (const std::optional<PageShortage> shortage = MakeRoom(count)) return shortage;
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
  ATTND_CHECK(page.refcount > page.published, "page freed twice");
  if (--page.refcount > page.published) return;
  if (page.published == 0) return Free(id);
  ChangeIdle(id, +1);
  index_->PageIdle(id);
}

void PageAllocator::Publish(PageId id) {
  Page& page = pages_[id.value()];
  ATTND_CHECK(page.refcount > 0 && page.published == 0, "published a page that no one holds");
  page.published = 1;
  ++page.refcount;
}

void PageAllocator::Unpublish(PageId id) {
  Page& page = pages_[id.value()];
  ATTND_CHECK(page.published == 1, "unpublished a page that was not published");
  if (page.refcount == 1) ChangeIdle(id, -1);
  page.published = 0;
  if (--page.refcount == 0) Free(id);
}

void PageAllocator::TouchIdle(PageId id) {
  const int32_t slot = SlabOf(id);
  SlabIn(slot).last_use = std::max(SlabIn(slot).last_use, index_->LastUse(id));
  ListEvictable(slot);
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

bool PageAllocator::AddSlab() {
  if (!CanAddSlab()) return false;
  const std::optional<SuperblockRun> run = source_.TakeSlab(*this, layout_.superblocks_per_slab);
  if (!run) return false;
  AdoptSlab(*run);
  return true;
}

// Whether page ids are left.
bool PageAllocator::CanAddSlab() const {
  return !vacant_slots_.empty() ||
         (slabs_.size() + 1) * static_cast<uint64_t>(layout_.pages_per_slab) <= kNoPage;
}

void PageAllocator::AdoptSlab(SuperblockRun run) {
  const uint64_t pages_per_slab = static_cast<uint64_t>(layout_.pages_per_slab);
  if (vacant_slots_.empty()) {
    vacant_slots_.insert(static_cast<int32_t>(slabs_.size()));
    slabs_.emplace_back();
    pages_.resize(pages_.size() + pages_per_slab);
  }
  const int32_t slot = *vacant_slots_.begin();
  vacant_slots_.erase(vacant_slots_.begin());
  Slab& slab = slabs_[static_cast<size_t>(slot)];
  slab.run = run;
  slab.offset_bytes = DevicePool::OffsetBytes(run);
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

void PageAllocator::Free(PageId id) {
  Page& page = pages_[id.value()];
  ++page.generation;
  if (options_.poison_free_pages) Poison(id);
  const int32_t slot = SlabOf(id);
  Slab& slab = SlabIn(slot);
  page.next_free = slab.first_free;
  slab.first_free = id.value();
  ChangeFree(slot, +1);
  ++free_;
  --used_;
  --quota_.taken;
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
  if (slab.num_idle > 0) ListEvictable(slot);
}

void PageAllocator::Poison(PageId page) {
  std::byte* row = base_ + OffsetBytes(page);
  for (int32_t layer = 0; layer < num_layers_; ++layer) {
    std::memset(row, kPoisonByte, layout_.row_bytes);
    row += layout_.layer_stride_bytes;
  }
}

}  // namespace attnd
