// SPDX-License-Identifier: Apache-2.0
//
// The memory of all caches, handed out in contiguous runs of 2 MiB superblocks.
//
// Best fit, the lowest address among equals; freed runs merge with their neighbours at once. Knows
// nothing of caches. Not thread-safe: KvCache's lock guards it. Allocate and Free are O(log runs).
//
//   std::optional<SuperblockRun> run = pool.Allocate(5);
//   std::byte* slab = pool.base() + DevicePool::OffsetBytes(*run);
//   pool.Free(*run);
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "kernels/base/units.h"
#include "kv_cache/geometry.h"

namespace attnd {

// `count` superblocks from `first` on.
struct SuperblockRun {
  int64_t first = 0;
  int64_t count = 0;

  int64_t end() const { return first + count; }
  friend auto operator<=>(const SuperblockRun&, const SuperblockRun&) = default;
};

class DevicePool {
 public:
  // `memory` is aligned to kSuperblockBytes; what does not fill a superblock stays unused.
  explicit DevicePool(std::span<std::byte> memory);

  // Nothing where no free run is long enough. Requires count >= 1.
  std::optional<SuperblockRun> Allocate(int64_t count);
  // Takes back what Allocate gave, or any part of it.
  void Free(SuperblockRun run);

  std::byte* base() const { return base_; }
  int64_t num_superblocks() const { return num_superblocks_; }
  int64_t free_superblocks() const { return free_superblocks_; }
  // In the order of addresses.
  std::vector<SuperblockRun> FreeRuns() const;
  int64_t largest_free_run() const { return by_size_.empty() ? 0 : by_size_.rbegin()->first; }
  static uint64_t OffsetBytes(SuperblockRun run) {
    return static_cast<uint64_t>(run.first) * kSuperblockBytes.value();
  }

  // INTERNAL unless the free runs and `held`, in any order, cover the pool exactly once.
  absl::Status CheckIntegrity(std::span<const SuperblockRun> held) const;

 private:
  void Insert(SuperblockRun run);
  void Erase(SuperblockRun run);

  std::byte* base_;
  int64_t num_superblocks_;
  int64_t free_superblocks_ = 0;
  std::map<int64_t, int64_t> by_start_;            // first -> count; no two runs touch
  std::set<std::pair<int64_t, int64_t>> by_size_;  // (count, first) of the same runs
};

}  // namespace attnd
