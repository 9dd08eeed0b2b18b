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
  Heads from;
  std::byte* to;  // of a page at offset 0
  int64_t head_stride_bytes;
  int64_t token_stride_bytes;
  FastDivide chunks;     // of a row
  FastDivide per_token;  // of all heads of a token
};

// A chunk's place in the new rows and in its page.
struct AppendPlace {
  const std::byte* from;
  std::byte* to;
};
ATTND_DEVICE AppendPlace PlaceOf(const AppendArgs& args, const AppendTask& task, const Item& item,
                                 const AppendRows& rows, int i) {
  const auto in_task = static_cast<int>(rows.per_token.Quotient(i));
  const int in_token = i - in_task * static_cast<int>(rows.per_token.divisor);
  const auto head = static_cast<int>(rows.chunks.Quotient(in_token));
  const int dim = (in_token - head * static_cast<int>(rows.chunks.divisor)) * kChunk;
  const int row = task.token_begin + in_task, token = item.start_position + row;
  const auto page = static_cast<int>(item.page_size.Quotient(token));
  ATTND_DEVICE_CHECK(page < item.num_pages);
  return {rows.from.Row(row, head) + dim * SizeOf(args.q_type),
          rows.to + (static_cast<uint64_t>(item.page_places[page]) << item.page_shift) +
              head * rows.head_stride_bytes +
              (token - page * static_cast<int>(item.page_size.divisor)) * rows.token_stride_bytes +
              dim * SizeOf(args.kv_type)};
}

// Keys, then values, as one range of chunks: several are on their way at a time.
ATTND_DEVICE void AppendTokens(const AppendArgs& args, const AppendTask& task, const Item& item) {
  const AppendRows keys = {item.new_k,
                           item.k,
                           item.k_head_stride_bytes,
                           item.k_token_stride_bytes,
                           args.chunks_k,
                           args.chunks_k_of_token};
  const AppendRows values = {item.new_v,
                             item.v,
                             item.v_head_stride_bytes,
                             item.v_token_stride_bytes,
                             args.chunks_v,
                             args.chunks_v_of_token};
  const int tokens = task.token_end - task.token_begin;
  const int num_keys = tokens * static_cast<int>(keys.per_token.divisor);
  const int count = num_keys + tokens * static_cast<int>(values.per_token.divisor);
  const auto place_of = [&](int i) {
    return i < num_keys ? PlaceOf(args, task, item, keys, i)
                        : PlaceOf(args, task, item, values, i - num_keys);
  };
  const auto thread = static_cast<int>(threadIdx.x);
  if (args.q_type != args.kv_type || args.q_type == Type::kF32) {
    for (int i = thread; i < count; i += kAppendThreads) {
      const AppendPlace place = place_of(i);
      float numbers[kChunk];
      LoadChunk(args.q_type, place.from, numbers);
      StoreChunk(args.kv_type, place.to, numbers);
    }
    return;
  }
  constexpr int kAtOnce = 8;
  for (int i = thread; i < count; i += kAtOnce * kAppendThreads) {
    U32x4 words[kAtOnce];
    std::byte* to[kAtOnce];
    ATTND_UNROLL
    for (int j = 0; j < kAtOnce; ++j) {
      to[j] = nullptr;
      if (i + j * kAppendThreads >= count) continue;
      const AppendPlace place = place_of(i + j * kAppendThreads);
      words[j] = LoadGlobal<U32x4>(place.from);
      to[j] = place.to;
    }
    ATTND_UNROLL
    for (int j = 0; j < kAtOnce; ++j) {
      if (to[j] != nullptr) *reinterpret_cast<U32x4*>(to[j]) = words[j];
    }
  }
}
#endif

template <class TargetT>
__global__ void __launch_bounds__(kAppendThreads) AppendKernel(const AppendArgs args) {
#if ATTND_DEVICE_CODE
  WaitForLaunchesBefore();
  const AppendTask task = args.tasks[blockIdx.x];
  AppendTokens(args, task, args.items[task.item]);
#endif
}

}  // namespace attnd::gpu
