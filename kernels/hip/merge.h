// SPDX-License-Identifier: Apache-2.0
//
// Partial results of splits to outputs: a block a row of a KV head.
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
// Threads are a chunk of the row each, and of some of its splits: several loads are on their way at
// a time, and the shares of the splits are added up in LDS.
class MergeBlock {
 public:
  ATTND_MEMBER void Run(const MergeArgs& args) {
    WaitForLaunchesBefore();
    const TaskOfBlock of = FindTask(args.kv_heads);
    const MergeTask task = args.tasks[of.task];
    const Item& item = args.items[task.item];
    auto* largest = reinterpret_cast<float*>(Lds());
    float* sums = largest + kMaxSplits;
    float* shares = sums + kMaxSplits;
    const int chunks = args.head_dim_v / kChunk, groups = kMergeThreads / chunks;
    const auto thread = static_cast<int>(threadIdx.x);
    const int chunk = thread % chunks, group = thread / chunks;

    for (int s = thread; s < task.num_splits; s += kMergeThreads) {
      const int64_t row = PartialRow(task.first_partial, s, task.rows, of, args.kv_heads);
      largest[s] = args.partial.largest[row];
      sums[s] = args.partial.sums[row];
    }
    const float unit = args.general != 0 ? kLog2E : item.scale * kLog2E;
    BlockBarrier();
    float base = MinusInfinity();
    for (int s = 0; s < task.num_splits; ++s) base = fmaxf(base, largest[s]);
    const float from = base == MinusInfinity() ? 0.0f : base;

    float values[kChunk] = {};
    if (group < groups) {
      for (int first = group; first < task.num_splits; first += kAtOnce * groups) {
        float of_split[kAtOnce][kChunk];
        ATTND_UNROLL
        for (int i = 0; i < kAtOnce; ++i) {
          const int s = first + i * groups;
          if (s >= task.num_splits) break;
          const int64_t row = PartialRow(task.first_partial, s, task.rows, of, args.kv_heads);
          LoadChunk(Type::kF32,
                    reinterpret_cast<const std::byte*>(args.partial.values + row * args.head_dim_v +
                                                       chunk * kChunk),
                    of_split[i]);
        }
        ATTND_UNROLL
        for (int i = 0; i < kAtOnce; ++i) {
          const int s = first + i * groups;
          if (s >= task.num_splits) break;
          const float share = Exp2((largest[s] - from) * unit);
          ATTND_UNROLL
          for (int d = 0; d < kChunk; ++d) values[d] += share * of_split[i][d];
        }
      }
    }
    ATTND_UNROLL
    for (int d = 0; d < kChunk; ++d) shares[thread * kChunk + d] = values[d];
    BlockBarrier();
    if (group > 0) return;
    for (int g = 1; g < groups; ++g) {
      ATTND_UNROLL
      for (int d = 0; d < kChunk; ++d) values[d] += shares[(g * chunks + chunk) * kChunk + d];
    }
    float sum = 0.0f;
    for (int s = 0; s < task.num_splits; ++s) sum += Exp2((largest[s] - from) * unit) * sums[s];
    const Rows rows{args.group, of.kv_head};
    const int head = rows.Head(task.row);
    StoreResult(item, args.q_type, {rows.Query(task.row), head}, chunk * kChunk,
                FinishRow(item, head, base, sum, unit), values);
  }

 private:
  static constexpr int kAtOnce = 4;
};
#endif

// A template only so that simt_host's several targets do not define it twice.
template <class TargetT>
__global__ void __launch_bounds__(kMergeThreads) MergeKernel(const MergeArgs args) {
#if ATTND_DEVICE_CODE
  MergeBlock::Run(args);
#endif
}

}  // namespace attnd::gpu
