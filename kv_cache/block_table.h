// SPDX-License-Identifier: Apache-2.0
//
// The pages of one sequence in the order of its tokens, and their byte offsets as kernels read
// them.
//
// Publish hands out the first n offsets. What was published never changes until ForgetPublished:
// appending writes behind it, and a change within it goes to a fresh copy, so a reader needs no
// lock while its sequence goes on. One writer at a time (KvCache's lock); readers of published
// offsets are free. Appending allocates only when the capacity doubles.
//
//   table.Append(page, allocator.OffsetBytes(page));
//   std::shared_ptr<const uint64_t[]> offsets = table.Publish(table.size());
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/base/units.h"

namespace attnd {

class BlockTable {
 public:
  size_t size() const { return pages_.size(); }
  PageId page(size_t index) const { return pages_[index]; }
  std::span<const PageId> pages() const { return pages_; }
  uint64_t offset_bytes(size_t index) const { return offsets_[index]; }

  void Append(PageId page, uint64_t offset_bytes);
  // Another page at `index`: copy-on-write.
  void Replace(size_t index, PageId page, uint64_t offset_bytes);
  // Forgets the last page and returns it.
  PageId PopBack();

  // The first `count` offsets. Shared, since readers outlive the next growth of the table.
  std::shared_ptr<const uint64_t[]> Publish(size_t count);
  // No reader is left.
  void ForgetPublished() { published_ = 0; }

 private:
  // Prepares entry `index` for a write.
  void MakeWritable(size_t index);

  std::vector<PageId> pages_;
  std::shared_ptr<uint64_t[]> offsets_;  // [capacity_]
  size_t capacity_ = 0;
  size_t published_ = 0;  // readers may look at entries below
};

}  // namespace attnd
