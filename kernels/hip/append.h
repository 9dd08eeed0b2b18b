// SPDX-License-Identifier: Apache-2.0
//
// New keys and values into their pages, converted to the cache's type: a block an AppendTask.
#pragma once

#include "kernels/hip/args.h"
#include "kernels/hip/gpu.h"
#if ATTND_DEVICE_CODE
#include "kernels/hip/numbers.h"
#endif

namespace attnd::gpu {

#if ATTND_DEVICE_CODE
// One tensor's rows of the task's tokens.
struct AppendRows {
  const Heads* from;
  std::byte* to;  // of a page at offset 0
  int64_t head_stride_bytes;
  int64_t token_stride_bytes;
  int head_dim;
};

ATTND_DEVICE void AppendTensor(const AppendArgs& args, const AppendTask& task, const Item& item,
                               const AppendRows& rows) {
  const int chunks = rows.head_dim / kChunk;
  const int per_token = args.num_kv_heads * chunks;
  const int count = (task.token_end - task.token_begin) * per_token;
  const bool copies = args.q_type == args.kv_type && args.q_type != Type::kF32;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kAppendThreads) {
    const int row = task.token_begin + i / per_token;
    const int head = i % per_token / chunks, dim = i % chunks * kChunk;
    const int token = item.start_position + row;
    const auto page = static_cast<int>(item.page_size.Quotient(token));
    ATTND_DEVICE_CHECK(page < item.num_pages);
    const std::byte* from = rows.from->data + row * rows.from->token_stride_bytes +
                            head * rows.from->head_stride_bytes + dim * SizeOf(args.q_type);
    std::byte* to =
        rows.to + item.page_offsets[page] + head * rows.head_stride_bytes +
        (token - page * static_cast<int>(item.page_size.divisor)) * rows.token_stride_bytes +
        dim * SizeOf(args.kv_type);
    if (copies) {
      *reinterpret_cast<U32x4*>(to) = *reinterpret_cast<const U32x4*>(from);
    } else {
      float numbers[kChunk];
      LoadChunk(args.q_type, from, numbers);
      StoreChunk(args.kv_type, to, numbers);
    }
  }
}
#endif

template <class TargetT>
__global__ void __launch_bounds__(kAppendThreads) AppendKernel(const AppendArgs args) {
#if ATTND_DEVICE_CODE
  const AppendTask task = args.tasks[blockIdx.x];
  const Item& item = args.items[task.item];
  AppendTensor(
      args, task, item,
      {&item.new_k, item.k, item.k_head_stride_bytes, item.k_token_stride_bytes, args.head_dim_k});
  AppendTensor(
      args, task, item,
      {&item.new_v, item.v, item.v_head_stride_bytes, item.v_token_stride_bytes, args.head_dim_v});
#endif
}

}  // namespace attnd::gpu
