// SPDX-License-Identifier: Apache-2.0
//
// When a page that a sequence no longer uses may be freed: once all leases are gone that were taken
// before, whatever new ones have come since.
//
// Leases are counted in two phases. A retired page belongs to the phase that is current; the phases
// swap when the older one has run out of leases, so pages never wait for a lease of the phase after
// theirs and a sequence that is always pinned by some lease still gives its pages back.
// Not thread-safe: KvCache's lock guards it. Pinning allocates nothing.
//
//   int phase = phases.Pin();
//   phases.Retire(page);
//   phases.Unpin(phase, [&](PageId page) { allocator.Unref(page); });
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "kernels/base/units.h"
#include "kv_cache/check.h"

namespace attnd {

class PinPhases {
 public:
  bool pinned() const { return pins_[0] + pins_[1] > 0; }
  int64_t num_pins() const { return pins_[0] + pins_[1]; }

  // Returns the phase to unpin with.
  int Pin() {
    ++pins_[Index(current_)];
    return current_;
  }

  // `page` is passed to `release` once every lease of now has ended. Only while pinned, or when Pin
  // follows before anything else.
  void Retire(PageId page) { retired_[Index(current_)].push_back(page); }

  template <typename Release>
  void Unpin(int phase, Release release) {
    ATTND_CHECK(pins_[Index(phase)] > 0, "unpinned more often than pinned");
    --pins_[Index(phase)];
    // Twice: once for the older phase, and again for the one that takes its place.
    for (int round = 0; round < 2; ++round) {
      const int older = 1 - current_;
      if (pins_[Index(older)] > 0) return;
      for (PageId page : retired_[Index(older)]) release(page);
      retired_[Index(older)].clear();
      if (retired_[Index(current_)].empty()) return;
      current_ = older;
    }
  }

  template <typename Visit>
  void ForEachRetired(Visit visit) const {
    for (const std::vector<PageId>& pages : retired_) {
      for (PageId page : pages) visit(page);
    }
  }

 private:
  static size_t Index(int phase) { return static_cast<size_t>(phase); }

  int current_ = 0;
  std::array<int64_t, 2> pins_ = {0, 0};
  std::array<std::vector<PageId>, 2> retired_;
};

}  // namespace attnd
