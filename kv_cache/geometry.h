// SPDX-License-Identifier: Apache-2.0
//
// What a cache stores for a token, and where in memory: geometry and the layout derived from it.
//
// A cache grows by slabs, contiguous runs of 2 MiB superblocks laid out
//   [layer][page][K, V][kv_head][token][dim]
// so that a layer stays dense, a head of a page is one contiguous chunk, and a page of all layers
// is one 2-D copy. A page is named by the byte offset of its layer-0 row; layer l adds l *
// layer_stride_bytes. Plain values, safe from any thread.
//
//   ATTND_RETURN_IF_ERROR(geometry.Validate());
//   SlabLayout layout = SlabLayout::For(geometry);
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/base/dtype.h"
#include "kernels/base/units.h"

namespace attnd {

inline constexpr Bytes kSuperblockBytes = Bytes(2u << 20);
inline constexpr int32_t kMaxPageSizeTokens = 1024;

struct CacheGeometry {
  int32_t num_layers = 0;       // 1 to 1024
  int32_t num_query_heads = 0;  // 1 to 1024
  int32_t num_kv_heads = 0;     // divides num_query_heads
  int32_t head_dim_k = 0;       // 1 to 256
  int32_t head_dim_v = 0;       // 1 to 256
  DType kv_dtype = DType::kF32;
  int32_t page_size_tokens = 16;  // 1 to kMaxPageSizeTokens

  // INVALID_ARGUMENT names the field, its value and what is allowed.
  absl::Status Validate() const;
  friend bool operator==(const CacheGeometry&, const CacheGeometry&) = default;
};

struct SlabLayout {
  uint64_t v_offset_bytes = 0;      // of V within a page's row; K comes first
  uint64_t row_bytes = 0;           // one page of one layer, K and V, a multiple of 64
  uint64_t layer_stride_bytes = 0;  // pages_per_slab * row_bytes
  uint64_t page_bytes = 0;          // row_bytes * num_layers
  int32_t pages_per_slab = 0;
  int32_t superblocks_per_slab = 0;

  Bytes slab_bytes() const {
    return Bytes(kSuperblockBytes.value() * static_cast<uint64_t>(superblocks_per_slab));
  }

  // The fewest superblocks that leave at most 2 % of a slab unused. Requires a valid geometry.
  static SlabLayout For(const CacheGeometry& geometry);
};

}  // namespace attnd
