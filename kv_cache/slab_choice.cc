// SPDX-License-Identifier: Apache-2.0
#include "kv_cache/slab_choice.h"

#include <algorithm>
#include <iterator>
#include <map>

namespace attnd {
namespace {

// Runs that merge with their neighbours.
class Pieces {
 public:
  // Returns the piece that `run` has become a part of.
  SuperblockRun Add(SuperblockRun run) {
    auto after = end_by_first_.lower_bound(run.first);
    int64_t first = run.first, end = run.end();
    if (after != end_by_first_.end() && after->first == end) {
      end = after->second;
      after = end_by_first_.erase(after);
    }
    if (after != end_by_first_.begin()) {
      const auto before = std::prev(after);
      if (before->second == first) {
        before->second = end;
        return {.first = before->first, .count = end - before->first};
      }
    }
    end_by_first_.emplace_hint(after, first, end);
    return {.first = first, .count = end - first};
  }

  int64_t Count(int64_t superblocks) const {
    int64_t count = 0;
    for (const auto& [first, end] : end_by_first_) count += (end - first) / superblocks;
    return count;
  }

 private:
  std::map<int64_t, int64_t> end_by_first_;
};

}  // namespace

std::vector<size_t> ChooseSlabs(std::span<const SuperblockRun> free,
                                std::span<const SuperblockRun> evictable, int64_t superblocks) {
  Pieces pieces;
  for (const SuperblockRun& run : free) {
    if (pieces.Add(run).count >= superblocks) return {};
  }
  for (size_t last = 0; last < evictable.size(); ++last) {
    const SuperblockRun piece = pieces.Add(evictable[last]);
    if (piece.count < superblocks) continue;
    // The rest of a longer piece stays.
    const int64_t begin = std::clamp(evictable[last].first, piece.first, piece.end() - superblocks);
    std::vector<size_t> chosen;
    for (size_t i = 0; i <= last; ++i) {
      if (evictable[i].end() > begin && evictable[i].first < begin + superblocks) {
        chosen.push_back(i);
      }
    }
    return chosen;
  }
  return {};
}

int64_t CountPieces(std::span<const SuperblockRun> free, std::span<const SuperblockRun> evictable,
                    int64_t superblocks) {
  Pieces pieces;
  for (const SuperblockRun& run : free) pieces.Add(run);
  for (const SuperblockRun& run : evictable) pieces.Add(run);
  return pieces.Count(superblocks);
}

}  // namespace attnd
