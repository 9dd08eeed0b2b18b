// SPDX-License-Identifier: Apache-2.0
//
// Partial results of splits to outputs, by the block that ends last of those that wrote them.
#pragma once

#include "kernels/hip/args.h"
#include "kernels/hip/block_vote.h"
#include "kernels/hip/gpu.h"
#include "kernels/hip/row_result.h"
#include "kernels/hip/rows.h"

namespace attnd::gpu {

// Called by all lanes of a block once its task's partial results are written: whether all tasks of
// the range have come here by now. To one block alone it is true, and that one sees what the others
// wrote.
ATTND_DEVICE bool IsLastOfRange(const AttendArgs& args, const AttendTask& task, int kv_head,
                                BlockVote& vote) {
  MemoryFence();
  BlockBarrier();
  bool last = false;
  if (threadIdx.x == 0) {
    uint32_t* ended = args.ended + task.range * static_cast<int>(args.kv_heads.divisor) + kv_head;
    last = static_cast<int>(AtomicIncrement(ended)) == args.ranges[task.range].num_tasks - 1;
  }
  last = vote.Any(last);
  MemoryFence();
  return last;
}

// A chunk of a row of the task; several splits are on their way at a time.
ATTND_DEVICE void MergeChunk(const AttendArgs& args, const AttendTask& task, const Item& item,
                             Rows rows, float unit, int row, int dim) {
  constexpr int kAtOnce = 8;
  const MergeRange range = args.ranges[task.range];
  PartialRow merged = {MinusInfinity(), 0.0f, {}};
  for (int first = 0; first < range.num_splits; first += kAtOnce) {
    PartialRow splits[kAtOnce];
    ATTND_UNROLL
    for (int s = 0; s < kAtOnce; ++s) {
      const int split = first + s < range.num_splits ? first + s : range.num_splits - 1;
      const int64_t place = FindPartial(range.first_partial + row - task.row_begin, split,
                                        task.row_end - task.row_begin, rows.kv_head, args.kv_heads);
      splits[s].largest = args.partial.largest[place];
      splits[s].sum = args.partial.sums[place];
      LoadValues(args.partial, place, args.head_dim_v, dim, splits[s]);
    }
    ATTND_UNROLL
    for (int s = 0; s < kAtOnce; ++s) {
      if (first + s >= range.num_splits) break;
      if (first + s == 0) {
        merged = splits[s];
      } else {
        Merge(merged, splits[s], unit);
      }
    }
  }
  const OutputRow to{rows.Query(row), rows.Head(row)};
  StoreResult(item, args.q_type, to, dim,
              FinishRow(item, to.head, merged.largest, merged.sum, unit), merged.values);
}

// All rows of the task, by a block of `threads` lanes.
ATTND_DEVICE void MergeRows(const AttendArgs& args, const AttendTask& task, const Item& item,
                            Rows rows, float unit, int threads) {
  const auto chunks = static_cast<int>(args.chunks_v.divisor);
  const int count = (task.row_end - task.row_begin) * chunks;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += threads) {
    const auto row = static_cast<int>(args.chunks_v.Quotient(i));
    MergeChunk(args, task, item, rows, unit, task.row_begin + row, (i - row * chunks) * kChunk);
  }
}

}  // namespace attnd::gpu
