// SPDX-License-Identifier: Apache-2.0
//
// Which query and which query head a row of a KV head is.
#pragma once

#include "kernels/hip/args.h"
#include "kernels/hip/gpu.h"

namespace attnd::gpu {

// The rows of one KV head of an item: those of the query heads that share it, query by query.
struct Rows {
  FastDivide group;
  int kv_head;

  ATTND_ACCESSOR int Query(int row) const { return static_cast<int>(group.Quotient(row)); }
  ATTND_ACCESSOR int Head(int row) const {
    const int heads = static_cast<int>(group.divisor);
    return kv_head * heads + row - Query(row) * heads;
  }
};

// A block's task and KV head. Blocks of one task are neighbours: heads of a page lie side by side.
struct TaskOfBlock {
  int task;
  int kv_head;
};
ATTND_DEVICE TaskOfBlock FindTask(int block, FastDivide kv_heads) {
  const auto task = static_cast<int>(kv_heads.Quotient(block));
  return {task, block - task * static_cast<int>(kv_heads.divisor)};
}

// The place of a row's partial results: `first` for split 0 of KV head 0, `rows` for each split and
// head.
ATTND_DEVICE int64_t FindPartial(int first, int split, int rows, int kv_head, FastDivide kv_heads) {
  return first +
         (static_cast<int64_t>(split) * static_cast<int>(kv_heads.divisor) + kv_head) * rows;
}

}  // namespace attnd::gpu
