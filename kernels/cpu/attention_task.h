// SPDX-License-Identifier: Apache-2.0
//
// The units of work that a plan is made of, and what a kernel gets to carry one out.
//
// Plain structs. A row of KV head h is one query of one query head that h serves: row r is query
// r / group, query head h * group + r % group, with group = num_query_heads / num_kv_heads. So rows
// of one query lie together, and causality cuts a tile of rows cleanly.
//
//   kernels.attend[...](TaskArgs{params, params.items[task.item], task, shape, scratch, partials});
#pragma once

#include <cstdint>

#include "kernels/attention/params.h"
#include "kernels/attention/visibility.h"
#include "kernels/cpu/tile_shape.h"

namespace attnd {

inline constexpr int64_t kNoPartial = -1;

// Rows of one KV head of one item over a range of keys.
struct AttentionTask {
  int32_t item = 0;  // index into AttentionParams::items
  int32_t kv_head = 0;
  int64_t row_begin = 0;
  int64_t row_end = 0;
  KeyRange keys;
  // kNoPartial: the keys are all that the rows see, the result goes to out and lse. Otherwise the
  // index of the partial row that the first row's state is written to.
  int64_t partial_row = kNoPartial;
  bool decode = false;  // the decode kernel, rather than the tile kernel
};

// The splits of some rows of one KV head, merged from the lowest keys to the highest.
struct MergeTask {
  int32_t item = 0;
  int32_t kv_head = 0;
  int64_t row_begin = 0;
  int64_t row_end = 0;
  int64_t partial_row = 0;  // of split 0; split s begins s * (row_end - row_begin) later
  int64_t num_splits = 0;
};

// New tokens of one item, all KV heads.
struct AppendTask {
  int32_t item = 0;
  int64_t token_begin = 0;  // within the item
  int64_t token_end = 0;
};

// The state of one row over some keys: its unnormalised output, largest score in base 2 and sum of
// weights. In memory: head_dim_v floats, rounded up to kDimAlign; then max; then sum.
constexpr int64_t PartialStride(int64_t head_dim_v) {
  return RoundUp(head_dim_v, kDimAlign) + kDimAlign;
}

struct TaskArgs {
  const AttentionParams& params;
  const AttentionItem& item;
  const AttentionTask& task;
  TileShape shape;
  float* scratch;   // Scratch::Elems(shape, dims) floats, this thread's alone, 64-byte aligned
  float* partials;  // [rows][PartialStride(head_dim_v)]
};

struct MergeArgs {
  const AttentionParams& params;
  const AttentionItem& item;
  const MergeTask& task;
  const float* partials;
};

struct AppendArgs {
  const AttentionParams& params;
  const AttentionItem& item;
  const AppendTask& task;
};

}  // namespace attnd
