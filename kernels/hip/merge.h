// SPDX-License-Identifier: Apache-2.0
//
// Partial results of splits to outputs: a block a MergeTask, its rows of one KV head.
#pragma once

#include "kernels/hip/args.h"
#include "kernels/hip/gpu.h"
#if ATTND_DEVICE_CODE
#include "kernels/hip/numbers.h"
#include "kernels/hip/row_result.h"
#endif

namespace attnd::gpu {

#if ATTND_DEVICE_CODE
ATTND_DEVICE void MergeChunk(const MergeArgs& args, const MergeTask& task, const Item& item,
                             int row, int dim) {
  const int rows = task.row_end - task.row_begin;
  const float unit = args.general != 0 ? kLog2E : item.scale * kLog2E;
  const int64_t first = task.first_partial + row;
  float largest = MinusInfinity();
  for (int s = 0; s < task.num_splits; ++s) {
    largest = fmaxf(largest, args.partial.largest[first + s * rows]);
  }
  const float base = largest == MinusInfinity() ? 0.0f : largest;
  float sum = 0.0f;
  float values[kChunk] = {};
  for (int s = 0; s < task.num_splits; ++s) {
    const int64_t from = first + s * rows;
    const float share = Exp2((args.partial.largest[from] - base) * unit);
    sum += share * args.partial.sums[from];
    float of_split[kChunk];
    LoadChunk(
        Type::kF32,
        reinterpret_cast<const std::byte*>(args.partial.values + from * args.head_dim_v + dim),
        of_split);
    ATTND_UNROLL
    for (int i = 0; i < kChunk; ++i) values[i] += share * of_split[i];
  }
  const int group = static_cast<int>(args.group.divisor);
  const int item_row = task.row_begin + row;
  const auto query = static_cast<int>(args.group.Quotient(item_row));
  const int head = task.kv_head * group + item_row - query * group;
  StoreResult(item, args.q_type, {query, head}, dim, FinishRow(item, head, largest, sum, unit),
              values);
}
#endif

// A template only so that simt_host's several targets do not define it twice.
template <class TargetT>
__global__ void __launch_bounds__(kMergeThreads) MergeKernel(const MergeArgs args) {
#if ATTND_DEVICE_CODE
  const MergeTask task = args.tasks[blockIdx.x];
  const int chunks = args.head_dim_v / kChunk;
  const int count = (task.row_end - task.row_begin) * chunks;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kMergeThreads) {
    MergeChunk(args, task, args.items[task.item], i / chunks, i % chunks * kChunk);
  }
#endif
}

}  // namespace attnd::gpu
