// SPDX-License-Identifier: Apache-2.0
#include "kv_cache/device_pool.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_format.h"
#include "kv_cache/check.h"

namespace attnd {

DevicePool::DevicePool(std::span<std::byte> memory)
    : base_(memory.data()),
      num_superblocks_(static_cast<int64_t>(memory.size() / kSuperblockBytes.value())) {
  ATTND_CHECK(reinterpret_cast<uintptr_t>(base_) % kSuperblockBytes.value() == 0,
              "the pool is not aligned to a superblock");
  if (num_superblocks_ > 0) Insert({.first = 0, .count = num_superblocks_});
}

std::optional<SuperblockRun> DevicePool::Allocate(int64_t count) {
  const auto fit = by_size_.lower_bound({count, 0});
  if (fit == by_size_.end()) return std::nullopt;
  const SuperblockRun found{.first = fit->second, .count = fit->first};
  Erase(found);
  if (found.count > count) Insert({.first = found.first + count, .count = found.count - count});
  return SuperblockRun{.first = found.first, .count = count};
}

void DevicePool::Free(SuperblockRun run) {
  ATTND_CHECK(run.first >= 0 && run.count > 0 && run.end() <= num_superblocks_,
              "freed a run outside the pool");
  const auto after = by_start_.lower_bound(run.first);
  ATTND_CHECK(after == by_start_.end() || after->first >= run.end(), "superblock freed twice");
  SuperblockRun merged = run;
  std::optional<SuperblockRun> before_run, after_run;
  if (after != by_start_.end() && after->first == run.end()) {
    after_run = {.first = after->first, .count = after->second};
    merged.count += after_run->count;
  }
  if (after != by_start_.begin()) {
    const auto before = std::prev(after);
    const int64_t before_end = before->first + before->second;
    ATTND_CHECK(before_end <= run.first, "superblock freed twice");
    if (before_end == run.first) {
      before_run = {.first = before->first, .count = before->second};
      merged = {.first = before_run->first, .count = merged.count + before_run->count};
    }
  }
  if (before_run) Erase(*before_run);
  if (after_run) Erase(*after_run);
  Insert(merged);
}

std::vector<SuperblockRun> DevicePool::FreeRuns() const {
  std::vector<SuperblockRun> runs;
  runs.reserve(by_start_.size());
  for (const auto& [first, count] : by_start_) runs.push_back({.first = first, .count = count});
  return runs;
}

absl::Status DevicePool::CheckIntegrity(std::span<const SuperblockRun> held) const {
  if (by_start_.size() != by_size_.size()) {
    return absl::InternalError("pool: the two indexes of free runs differ in size");
  }
  std::vector<SuperblockRun> all(held.begin(), held.end());
  int64_t free = 0;
  int64_t previous_end = -1;
  for (const auto& [first, count] : by_start_) {
    if (!by_size_.contains({count, first})) {
      return absl::InternalError(absl::StrFormat("pool: free run at %d has no size entry", first));
    }
    if (first == previous_end) {
      return absl::InternalError(absl::StrFormat("pool: free runs touch at %d", first));
    }
    previous_end = first + count;
    free += count;
    all.push_back({.first = first, .count = count});
  }
  if (free != free_superblocks_) {
    return absl::InternalError(
        absl::StrFormat("pool: counts %d free superblocks, has %d", free_superblocks_, free));
  }
  std::sort(all.begin(), all.end());
  int64_t next = 0;
  for (const SuperblockRun& run : all) {
    if (run.first != next) {
      return absl::InternalError(absl::StrFormat("pool: superblock %d is %s",
                                                 std::min(run.first, next),
                                                 run.first < next ? "owned twice" : "lost"));
    }
    next = run.end();
  }
  if (next != num_superblocks_) {
    return absl::InternalError(absl::StrFormat("pool: superblock %d is lost", next));
  }
  return absl::OkStatus();
}

void DevicePool::Insert(SuperblockRun run) {
  by_start_.emplace(run.first, run.count);
  by_size_.emplace(run.count, run.first);
  free_superblocks_ += run.count;
}

void DevicePool::Erase(SuperblockRun run) {
  by_start_.erase(run.first);
  by_size_.erase({run.count, run.first});
  free_superblocks_ -= run.count;
}

}  // namespace attnd
