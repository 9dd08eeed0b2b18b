// SPDX-License-Identifier: Apache-2.0
//
// Writes new keys and values into their pages, converted to the KV dtype. Same dtype, same bits.
// Included once per Highway target.
#if defined(ATTND_KERNELS_CPU_APPEND_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTND_KERNELS_CPU_APPEND_INL_H_
#undef ATTND_KERNELS_CPU_APPEND_INL_H_
#else
#define ATTND_KERNELS_CPU_APPEND_INL_H_
#endif

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "hwy/highway.h"
#include "kernels/attention/kv_address.h"
#include "kernels/cpu/attention_task.h"
#include "kernels/cpu/convert-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnd {
namespace HWY_NAMESPACE {

template <class From, class To>
HWY_INLINE HWY_ATTR void AppendRow(const void* from, int64_t offset, std::byte* to, int64_t dim) {
  const From* row = static_cast<const From*>(from) + offset;
  if constexpr (std::is_same_v<From, To>) {
    std::memcpy(to, row, static_cast<size_t>(dim) * sizeof(To));
  } else {
    ConvertRow(row, reinterpret_cast<To*>(to), dim);
  }
}

template <class From, class To>
HWY_INLINE HWY_ATTR void AppendTokens(const AppendArgs& args) {
  const AttentionItem& item = args.item;
  const KernelKey& key = args.params.key;
  for (int64_t i = args.task.token_begin; i < args.task.token_end; ++i) {
    const int64_t token = item.start_position + i;
    for (int64_t h = 0; h < args.params.num_kv_heads; ++h) {
      AppendRow<From, To>(item.new_k.data,
                          i * item.new_k.token_stride_elems + h * item.new_k.head_stride_elems,
                          KeyAddress(item.kv, key.kv_dtype, h, token), key.head_dim_k);
      AppendRow<From, To>(item.new_v.data,
                          i * item.new_v.token_stride_elems + h * item.new_v.head_stride_elems,
                          ValueAddress(item.kv, key.kv_dtype, h, token), key.head_dim_v);
    }
  }
}

HWY_INLINE HWY_ATTR void Append(const AppendArgs& args) {
  DispatchElement(args.params.key.q_dtype, [&](auto from) HWY_ATTR {
    DispatchElement(args.params.key.kv_dtype,
                    [&](auto to) HWY_ATTR { AppendTokens<decltype(from), decltype(to)>(args); });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace attnd
HWY_AFTER_NAMESPACE();

#endif
