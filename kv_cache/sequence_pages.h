// SPDX-License-Identifier: Apache-2.0
//
// The pages of one sequence: its block table, what it was promised, and what leases still read.
//
// Promises of queued items are shared: 30 layers that will write the same new page promise it once.
// Copy-on-write and giving back happen here; which positions may be written is Sequence's business.
// Not thread-safe: KvCache's lock guards it.
//
//   shortage = pages.Reserve({.first = 2, .end = 3});               // at admission
//   shortage = pages.PrepareWrite({.first = 2, .end = 3}, copies);  // just before the launch
//   pages.ReturnReservation();
//   SequencePages::Pinned pinned = pages.Pin(3);
//   pages.Unpin(pinned.phase);                                      // after it
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/attention/params.h"
#include "kernels/base/units.h"
#include "kv_cache/block_table.h"
#include "kv_cache/page_allocator.h"
#include "kv_cache/pin_phases.h"

namespace attnd {

// Pages [first, end) of a sequence.
struct PageRange {
  size_t first = 0;
  size_t end = 0;
};

class SequencePages {
 public:
  explicit SequencePages(PageAllocator& allocator) : allocator_(allocator) {}
  ~SequencePages();
  SequencePages(const SequencePages&) = delete;
  SequencePages& operator=(const SequencePages&) = delete;

  size_t size() const { return table_.size(); }
  bool pinned() const { return phases_.pinned(); }
  std::span<const PageId> pages() const { return table_.pages(); }
  // Those that other sequences hold, too.
  PageCount CountShared() const;
  PageAllocator& allocator() { return allocator_; }

  // Promises what a write of `range` will need, beyond what is promised already: pages that do not
  // exist yet, and one for each that is shared now. Each success is followed by one
  // ReturnReservation.
  [[nodiscard]] std::optional<PageShortage> Reserve(PageRange range);
  void ReturnReservation();
  int64_t num_reservations() const { return num_reservations_; }

  // Makes pages [range.first, range.end) this sequence's alone, promised pages first; range.first
  // is at most size(). All or nothing. Where it succeeds, Pin must follow. Appends to `copies` what
  // has to be copied before the launch.
  [[nodiscard]] std::optional<PageShortage> PrepareWrite(PageRange range,
                                                         std::vector<PageCopy>& copies);
  // Drops pages from the end, those that leases read once these have ended.
  void Shrink(size_t new_size);
  // Starts an empty table with pages that others hold: a parent, or the index of prefixes.
  void Share(std::span<const PageId> pages);

  struct Pinned {
    std::shared_ptr<const uint64_t[]> offsets;
    int phase = 0;
  };
  // A lease that reads the first `count` pages.
  Pinned Pin(size_t count);
  void Unpin(int phase);

  // What CheckIntegrity compares with the allocator.
  PageCount promised() const { return promised_; }
  absl::Status CheckIntegrity() const;
  template <typename Visit>
  void ForEachOwned(Visit visit) const {
    for (PageId page : table_.pages()) visit(page);
    phases_.ForEachRetired(visit);
  }

 private:
  // A published page is shared with whoever will match it, even where no one else holds it.
  bool Shared(size_t index) const { return allocator_.refcount(table_.page(index)) > 1; }
  void ForgetCopyPromise(size_t index);

  PageAllocator& allocator_;
  BlockTable table_;
  PinPhases phases_;

  int64_t num_reservations_ = 0;
  PageCount promised_;                   // for new pages and for copies
  size_t promised_end_ = 0;              // pages that the table has once all queued items have run
  std::vector<size_t> promised_copies_;  // indexes of shared pages, ascending
};

}  // namespace attnd
