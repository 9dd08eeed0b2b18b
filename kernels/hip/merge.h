// SPDX-License-Identifier: Apache-2.0
//
// Partial results of splits to outputs.
#pragma once

#include "kernels/hip/args.h"
#include "kernels/hip/gpu.h"
#if ATTND_DEVICE_CODE
#include "kernels/hip/numbers.h"
#include "kernels/hip/row_result.h"
#include "kernels/hip/rows.h"
#endif

namespace attnd::gpu {

#if ATTND_DEVICE_CODE
// A thread merges a chunk of a row; several splits are on their way to it at a time.
ATTND_DEVICE void MergeChunk(const MergeArgs& args, int i) {
  constexpr int kAtOnce = 8;
  const auto row = static_cast<int>(args.chunks.Quotient(i));
  if (row >= args.rows) return;
  const int dim = (i - row * static_cast<int>(args.chunks.divisor)) * kChunk;
  const TaskOfBlock of = FindTask(row, args.kv_heads);
  const MergeTask task = args.tasks[of.task];
  const Item& item = args.items[task.item];
  const float unit = args.general != 0 ? kLog2E : item.scale * kLog2E;
  PartialRow merged = {MinusInfinity(), 0.0f, {}};
  for (int first = 0; first < task.num_splits; first += kAtOnce) {
    PartialRow splits[kAtOnce];
    ATTND_UNROLL
    for (int s = 0; s < kAtOnce; ++s) {
      const int split = first + s < task.num_splits ? first + s : task.num_splits - 1;
      const int64_t place =
          FindPartial(task.first_partial, split, task.rows, of.kv_head, args.kv_heads);
      splits[s].largest = args.partial.largest[place];
      splits[s].sum = args.partial.sums[place];
      LoadValues(args.partial, place, args.head_dim_v, dim, splits[s]);
    }
    ATTND_UNROLL
    for (int s = 0; s < kAtOnce; ++s) {
      if (first + s >= task.num_splits) break;
      if (first + s == 0) {
        merged = splits[s];
      } else {
        Merge(merged, splits[s], unit);
      }
    }
  }
  const Rows rows{args.group, of.kv_head};
  const OutputRow to{rows.Query(task.row), rows.Head(task.row)};
  StoreResult(item, args.q_type, to, dim,
              FinishRow(item, to.head, merged.largest, merged.sum, unit), merged.values);
}
#endif

// A template only so that simt_host's several targets do not define it twice.
template <class TargetT>
__global__ void __launch_bounds__(kMergeThreads) MergeKernel(const MergeArgs args) {
#if ATTND_DEVICE_CODE
  WaitForLaunchesBefore();
  MergeChunk(args, static_cast<int>(blockIdx.x * kMergeThreads + threadIdx.x));
#endif
}

}  // namespace attnd::gpu
