// SPDX-License-Identifier: Apache-2.0
//
// From a product of query and key to a score: who sees whom, and the options that shape a score.
//
// kernels/attention/params.h defines them (ScoreOptions), kernels/attention/visibility.h on the
// host's side; here they are asked for one row and one key at a time.
#pragma once

#include "kernels/base/philox.h"
#include "kernels/hip/args.h"
#include "kernels/hip/gpu.h"
#include "kernels/hip/numbers.h"

namespace attnd::gpu {

inline constexpr float kLog2E = 1.44269504088896340736f;
inline constexpr float kLn2 = 0.69314718055994530942f;

// Key positions [begin, end).
struct Range {
  int begin;
  int end;
};

// What causality and the window leave of a task's keys to a query.
ATTND_DEVICE Range VisibleKeys(const Item& item, const AttendTask& task, int query) {
  const int position = item.start_position + query;
  const int begin = position - item.window_left;
  const int end = position + item.window_right + 1;
  return {begin > task.key_begin ? begin : task.key_begin, end < task.key_end ? end : task.key_end};
}

ATTND_DEVICE bool TreeAllows(const Item& item, int query, int key) {
  const int bit = key - item.start_position;
  if (item.tree_mask == nullptr || bit < 0) return true;
  if (bit >= item.query_len || query >= item.query_len) return false;
  return (item.tree_mask[query * ((item.query_len + 7) / 8) + bit / 8] >> (bit % 8) & 1) != 0;
}

// Whether dropout keeps the keys [key, key + kCount). They have one draw in common: kCount divides
// 4, and `key` is a multiple of kCount.
template <int kCount>
ATTND_DEVICE void DropoutKeeps(const Item& item, int query, int head, int key,
                               bool (&keeps)[kCount]) {
  static_assert(kCount == 2 || kCount == 4);
  const auto draws =
      Philox4x32(item.dropout_seed, {static_cast<uint32_t>(key) / 4,
                                     static_cast<uint32_t>(item.start_position + query),
                                     static_cast<uint32_t>(head), item.dropout_subsequence});
  const bool upper = kCount == 2 && (key & 2) != 0;
  ATTND_UNROLL
  for (int j = 0; j < kCount; ++j) {
    keeps[j] = (upper ? draws[(2 + j) % 4] : draws[j]) >= item.dropout_threshold;
  }
}

}  // namespace attnd::gpu
