// SPDX-License-Identifier: Apache-2.0
//
// Where one token's key or value lies in a KvView. Pure functions, safe from any thread; kernels
// that walk many tokens hoist the page lookup, everyone else asks here.
//
//   const std::byte* key = KeyAddress(item.kv, DType::kF16, /*kv_head=*/2, /*token=*/1000);
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention/params.h"
#include "kernels/base/dtype.h"

namespace attnd {

inline std::byte* KeyAddress(const KvView& kv, DType dtype, int64_t kv_head, int64_t token) {
  const int64_t page = token / kv.page_size_tokens;
  const int64_t elems =
      kv_head * kv.k_head_stride_elems + (token % kv.page_size_tokens) * kv.k_token_stride_elems;
  return kv.k + kv.page_offsets[page] + elems * static_cast<int64_t>(SizeOf(dtype));
}

inline std::byte* ValueAddress(const KvView& kv, DType dtype, int64_t kv_head, int64_t token) {
  const int64_t page = token / kv.page_size_tokens;
  const int64_t elems =
      kv_head * kv.v_head_stride_elems + (token % kv.page_size_tokens) * kv.v_token_stride_elems;
  return kv.v + kv.page_offsets[page] + elems * static_cast<int64_t>(SizeOf(dtype));
}

}  // namespace attnd
