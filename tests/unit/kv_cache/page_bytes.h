// SPDX-License-Identifier: Apache-2.0
//
// Reads and writes the KV of single tokens as a kernel would find them, and executes page copies.
//
// A token is marked by one 64-bit number in the first key element of its last head and in the first
// value element of its first head: that is as far apart as a token's bytes lie. The arithmetic is
// written out once more on purpose, so that it checks the cache's. Host memory only; not
// thread-safe.
//
//   WriteToken(lease.view(), lease.page_offsets(), /*position=*/7, 42);
//   EXPECT_EQ(ReadToken(lease.view(), lease.page_offsets(), 7), 42);
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "kernels/attention/params.h"
#include "kernels/base/dtype.h"
#include "kv_cache/page_lease.h"

namespace attnd {

struct TokenBytes {
  std::byte* key = nullptr;
  std::byte* value = nullptr;
};

inline TokenBytes LocateToken(const PageLease::View& view, std::span<const uint64_t> page_offsets,
                              int64_t position) {
  const CacheGeometry& geometry = view.geometry;
  const int64_t page_size = geometry.page_size_tokens;
  const int64_t element = static_cast<int64_t>(SizeOf(geometry.kv_dtype));
  const int64_t row = position % page_size;
  std::byte* page = view.layer_base + page_offsets[static_cast<size_t>(position / page_size)];
  const int64_t last_head = geometry.num_kv_heads - 1;
  return {.key = page + (last_head * page_size + row) * geometry.head_dim_k * element,
          .value = page + view.layout.v_offset_bytes + row * geometry.head_dim_v * element};
}

inline void WriteToken(const PageLease::View& view, std::span<const uint64_t> page_offsets,
                       int64_t position, uint64_t mark) {
  const TokenBytes token = LocateToken(view, page_offsets, position);
  std::memcpy(token.key, &mark, sizeof(mark));
  std::memcpy(token.value, &mark, sizeof(mark));
}

// The mark, or 0 where key and value do not carry the same one.
inline uint64_t ReadToken(const PageLease::View& view, std::span<const uint64_t> page_offsets,
                          int64_t position) {
  const TokenBytes token = LocateToken(view, page_offsets, position);
  uint64_t key, value;
  std::memcpy(&key, token.key, sizeof(key));
  std::memcpy(&value, token.value, sizeof(value));
  return key == value ? key : 0;
}

inline void ExecuteCopies(std::span<const PageCopy> copies) {
  for (const PageCopy& copy : copies) {
    for (int32_t layer = 0; layer < copy.num_layers; ++layer) {
      const uint64_t offset = static_cast<uint64_t>(layer) * copy.layer_stride_bytes;
      std::memcpy(copy.destination + offset, copy.source + offset, copy.row_bytes);
    }
  }
}

}  // namespace attnd
