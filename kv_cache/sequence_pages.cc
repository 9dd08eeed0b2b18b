// SPDX-License-Identifier: Apache-2.0
#include "kv_cache/sequence_pages.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "kv_cache/check.h"

namespace attnd {

SequencePages::~SequencePages() {
  ATTND_CHECK(!pinned(), "a pinned sequence was destroyed");
  allocator_.Unpromise(promised_);
  for (PageId page : table_.pages()) allocator_.Unref(page);
}

PageCount SequencePages::CountShared() const {
  const auto pages = table_.pages();
  return PageCount(std::count_if(pages.begin(), pages.end(),
                                 [this](PageId page) { return allocator_.holders(page) > 1; }));
}

std::optional<PageShortage> SequencePages::Reserve(PageRange range) {
  const size_t copies_before = promised_copies_.size();
  for (size_t i = range.first; i < std::min(range.end, size()); ++i) {
    if (!Shared(i)) continue;
    const auto known_end = promised_copies_.begin() + static_cast<ptrdiff_t>(copies_before);
    if (!std::binary_search(promised_copies_.begin(), known_end, i)) promised_copies_.push_back(i);
  }
  const size_t end = std::max(promised_end_, range.end);
  const int64_t wanted =
      static_cast<int64_t>((end > size() ? end - size() : 0) + promised_copies_.size());
  const PageCount missing = std::max(PageCount(wanted) - promised_, PageCount(0));
  if (missing > PageCount(0)) {
    if (const std::optional<PageShortage> shortage = allocator_.Promise(missing)) {
      promised_copies_.resize(copies_before);
      return shortage;
    }
    promised_ += missing;
  }
  promised_end_ = end;
  std::inplace_merge(promised_copies_.begin(),
                     promised_copies_.begin() + static_cast<ptrdiff_t>(copies_before),
                     promised_copies_.end());
  ++num_reservations_;
  return std::nullopt;
}

void SequencePages::ReturnReservation() {
  ATTND_CHECK(num_reservations_ > 0, "returned a reservation twice");
  if (--num_reservations_ > 0) return;
  allocator_.Unpromise(std::exchange(promised_, PageCount(0)));
  promised_copies_.clear();
  promised_end_ = 0;
}

std::optional<PageShortage> SequencePages::PrepareWrite(PageRange range,
                                                        std::vector<PageCopy>& copies) {
  const size_t existing_end = std::min(range.end, size());
  int64_t needed = static_cast<int64_t>(range.end - existing_end);
  for (size_t i = range.first; i < existing_end; ++i) needed += Shared(i) ? 1 : 0;
  if (needed == 0) return std::nullopt;

  const PageCount unpromised = std::max(PageCount(needed) - promised_, PageCount(0));
  if (unpromised > PageCount(0)) {
    if (const std::optional<PageShortage> shortage = allocator_.Promise(unpromised)) {
      return shortage;
    }
  }
  promised_ -= PageCount(needed) - unpromised;
  for (size_t i = range.first; i < existing_end; ++i) {
    if (!Shared(i)) continue;
    const PageId from = table_.page(i);
    const PageId to = allocator_.TakePromised();
    copies.push_back(allocator_.Copy(from, to));
    table_.Replace(i, to, allocator_.OffsetBytes(to));
    // The reference that the table had keeps it as it is until the copy and older leases are done.
    phases_.Retire(from);
    ForgetCopyPromise(i);
  }
  while (size() < range.end) {
    const PageId page = allocator_.TakePromised();
    table_.Append(page, allocator_.OffsetBytes(page));
  }
  return std::nullopt;
}

void SequencePages::Shrink(size_t new_size) {
  while (size() > new_size) {
    ForgetCopyPromise(size() - 1);
    const PageId page = table_.PopBack();
    if (pinned()) {
      phases_.Retire(page);
    } else {
      allocator_.Unref(page);
    }
  }
}

void SequencePages::Share(std::span<const PageId> pages) {
  ATTND_CHECK(size() == 0, "only an empty sequence starts with others' pages");
  for (PageId page : pages) {
    allocator_.Ref(page);
    table_.Append(page, allocator_.OffsetBytes(page));
  }
}

SequencePages::Pinned SequencePages::Pin(size_t count) {
  return {.offsets = table_.Publish(count), .phase = phases_.Pin()};
}

void SequencePages::Unpin(int phase) {
  phases_.Unpin(phase, [this](PageId page) { allocator_.Unref(page); });
  if (!pinned()) table_.ForgetPublished();
}

void SequencePages::ForgetCopyPromise(size_t index) {
  const auto found = std::lower_bound(promised_copies_.begin(), promised_copies_.end(), index);
  if (found != promised_copies_.end() && *found == index) promised_copies_.erase(found);
}

absl::Status SequencePages::CheckIntegrity() const {
  for (size_t i = 0; i < size(); ++i) {
    if (table_.offset_bytes(i) != allocator_.OffsetBytes(table_.page(i))) {
      return absl::InternalError(absl::StrFormat("the offset of page %d is not its page's", i));
    }
  }
  if (num_reservations_ == 0 && promised_ != PageCount(0)) {
    return absl::InternalError(
        absl::StrFormat("%d pages are promised to no item", promised_.value()));
  }
  return absl::OkStatus();
}

}  // namespace attnd
