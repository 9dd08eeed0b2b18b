// SPDX-License-Identifier: Apache-2.0
//
// A few consecutive rows of one KV head: which queries they are and which keys they see.
//
// A view for the time of one task; see attention_task.h for what a row is.
//
//   RowBlock block{&item, kv_head, group, /*first_row=*/24, /*rows=*/12};
//   KeyRange hull = block.Hull();   // keys that some row may see
#pragma once

#include <cstdint>

#include "kernels/attention/params.h"
#include "kernels/attention/visibility.h"

namespace attnd {

struct RowBlock {
  const AttentionItem* item;
  int64_t kv_head;
  int64_t group;  // query heads of a KV head
  int64_t first_row;
  int64_t rows;

  int64_t Query(int64_t r) const { return (first_row + r) / group; }
  int64_t Head(int64_t r) const { return kv_head * group + (first_row + r) % group; }
  int64_t Position(int64_t r) const { return item->start_position + Query(r); }

  int64_t QueryOffset(int64_t r) const {
    return Query(r) * item->q.token_stride_elems + Head(r) * item->q.head_stride_elems;
  }
  int64_t OutOffset(int64_t r) const {
    return Query(r) * item->out.token_stride_elems + Head(r) * item->out.head_stride_elems;
  }
  int64_t LseOffset(int64_t r) const {
    return Query(r) * item->lse.token_stride_elems + Head(r) * item->lse.head_stride_elems;
  }

  // What row r sees, but for the tree mask.
  KeyRange Range(int64_t r) const { return VisibleRange(item->options, Position(r), item->kv_len); }
  bool Sees(int64_t r, int64_t key) const {
    return Range(r).Contains(key) && TreeMaskAllows(*item, Query(r), key);
  }
  // Holds every key that some row sees.
  KeyRange Hull() const {
    return VisibleHull(item->options, Position(0), Position(rows - 1), item->kv_len);
  }
  // Whether every row sees every one of `keys`.
  bool AllSee(KeyRange keys) const {
    if (item->options.tree_mask != nullptr && keys.end > item->start_position) return false;
    return Range(0).Contains(keys) && Range(rows - 1).Contains(keys);
  }
};

}  // namespace attnd
