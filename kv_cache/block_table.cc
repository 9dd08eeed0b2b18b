// SPDX-License-Identifier: Apache-2.0
#include "kv_cache/block_table.h"

#include <algorithm>

#include "kv_cache/check.h"

namespace attnd {
namespace {

constexpr size_t kMinCapacity = 8;

}  // namespace

void BlockTable::Append(PageId page, uint64_t offset_bytes) {
  MakeWritable(pages_.size());
  offsets_[pages_.size()] = offset_bytes;
  pages_.push_back(page);
}

void BlockTable::Replace(size_t index, PageId page, uint64_t offset_bytes) {
  ATTND_CHECK(index < pages_.size(), "replaced a page beyond the table");
  MakeWritable(index);
  offsets_[index] = offset_bytes;
  pages_[index] = page;
}

PageId BlockTable::PopBack() {
  ATTND_CHECK(!pages_.empty(), "popped from an empty table");
  const PageId page = pages_.back();
  pages_.pop_back();
  return page;
}

std::shared_ptr<const uint64_t[]> BlockTable::Publish(size_t count) {
  ATTND_CHECK(count <= pages_.size(), "published beyond the table");
  published_ = std::max(published_, count);
  return offsets_;
}

void BlockTable::MakeWritable(size_t index) {
  if (index >= published_ && index < capacity_) return;
  if (index >= capacity_) capacity_ = std::max(kMinCapacity, 2 * capacity_);
  std::shared_ptr<uint64_t[]> fresh = std::make_shared_for_overwrite<uint64_t[]>(capacity_);
  if (!pages_.empty()) std::copy_n(offsets_.get(), pages_.size(), fresh.get());
  offsets_ = std::move(fresh);
  published_ = 0;
}

}  // namespace attnd
