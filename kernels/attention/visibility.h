// SPDX-License-Identifier: Apache-2.0
//
// Which keys a query sees: the masks of ScoreOptions as an interval of key positions, cut further
// by the tree mask where there is one. Pure functions, safe from any thread.
//
//   KeyRange range = VisibleRange(item.options, item.start_position + i, item.kv_len);
//   bool sees = range.Contains(j) && TreeMaskAllows(item, i, j);
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/attention/params.h"

namespace attnd {

// Key positions [begin, end).
struct KeyRange {
  int64_t begin = 0;
  int64_t end = 0;

  constexpr bool empty() const { return begin >= end; }
  constexpr bool Contains(int64_t key) const { return begin <= key && key < end; }
  constexpr bool Contains(KeyRange other) const {
    return other.empty() || (begin <= other.begin && other.end <= end);
  }
  friend constexpr bool operator==(const KeyRange&, const KeyRange&) = default;
};

// The smallest interval that holds what causality and the window leave to the queries at positions
// first .. last. Empty is always {0, 0}.
constexpr KeyRange VisibleHull(const ScoreOptions& options, int64_t first, int64_t last,
                               int64_t kv_len) {
  // A window as wide as the integers is no window: the sums below must not overflow.
  constexpr int64_t kFar = std::numeric_limits<int64_t>::max() / 4;
  KeyRange range{0, kv_len};
  if (options.causal) range.end = std::min(range.end, last + 1);
  if (options.window_left >= 0) {
    range.begin = std::max(range.begin, first - std::min(options.window_left, kFar));
  }
  if (options.window_right >= 0) {
    range.end = std::min(range.end, last + std::min(options.window_right, kFar) + 1);
  }
  return range.empty() ? KeyRange{0, 0} : range;
}

// What they leave to the one query at `position`.
constexpr KeyRange VisibleRange(const ScoreOptions& options, int64_t position, int64_t kv_len) {
  return VisibleHull(options, position, position, kv_len);
}

// Whether the tree mask lets row `query` see `key`. Keys past the last row's bit are not seen.
inline bool TreeMaskAllows(const AttentionItem& item, int64_t query, int64_t key) {
  if (item.options.tree_mask == nullptr || key < item.start_position) return true;
  const int64_t bit = key - item.start_position;
  if (bit >= item.query_len) return false;
  const int64_t row_bytes = (item.query_len + 7) / 8;
  return (item.options.tree_mask[query * row_bytes + bit / 8] >> (bit % 8) & 1) != 0;
}

}  // namespace attnd
