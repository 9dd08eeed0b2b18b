// SPDX-License-Identifier: Apache-2.0
//
// Rows of K or of V of one KV head in order of tokens, without a division for each.
//
// One thread; a view of a KvView. Rising tokens are cheap, others cost a division.
//
//   TokenWalk<Half> keys = KeyWalk<Half>(item.kv, kv_head);
//   const Half* row = keys.At(1000);
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention/params.h"

namespace attnd {

template <class T>
class TokenWalk {
 public:
  TokenWalk(const std::byte* base, const KvView& kv, int64_t head_elems, int64_t token_elems)
      : base_(base + head_elems * static_cast<int64_t>(sizeof(T))),
        kv_(kv),
        token_elems_(token_elems) {}

  const T* At(int64_t token) {
    if (token < page_begin_ || token >= page_end_) {
      const int64_t page = token / kv_.page_size_tokens;
      page_begin_ = page * kv_.page_size_tokens;
      page_end_ = page_begin_ + kv_.page_size_tokens;
      page_ = reinterpret_cast<const T*>(base_ + kv_.page_offsets[page]);
    }
    return page_ + (token - page_begin_) * token_elems_;
  }

 private:
  const std::byte* base_;
  const KvView& kv_;
  int64_t token_elems_;
  int64_t page_begin_ = 0;
  int64_t page_end_ = 0;  // no page yet
  const T* page_ = nullptr;
};

// __builtin_prefetch's third argument.
inline constexpr int kIntoL1 = 3;
inline constexpr int kIntoL2 = 2;

// Asks for the cache lines of a row.
template <int kInto = kIntoL1, class T>
void PrefetchRow(const T* row, int64_t elems) {
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  for (int64_t i = 0; i < elems; i += kLine) __builtin_prefetch(row + i, /*rw=*/0, kInto);
}

template <class T>
TokenWalk<T> KeyWalk(const KvView& kv, int64_t kv_head) {
  return TokenWalk<T>(kv.k, kv, kv_head * kv.k_head_stride_elems, kv.k_token_stride_elems);
}

template <class T>
TokenWalk<T> ValueWalk(const KvView& kv, int64_t kv_head) {
  return TokenWalk<T>(kv.v, kv, kv_head * kv.v_head_stride_elems, kv.v_token_stride_elems);
}

}  // namespace attnd
