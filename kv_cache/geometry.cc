// SPDX-License-Identifier: Apache-2.0
#include "kv_cache/geometry.h"

#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"

namespace attnd {
namespace {

// Rows, and V within a row, start on a cache line: the widest vector load stays aligned.
constexpr uint64_t kRowAlignmentBytes = 64;
// At most 1/kMaxWasteDivisor of a slab is left over.
constexpr uint64_t kMaxWasteDivisor = 50;

constexpr uint64_t AlignUp(uint64_t bytes, uint64_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

absl::Status CheckRange(const char* field, int32_t value, int32_t max) {
  if (value >= 1 && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("geometry.%s is %d; it must be 1 to %d", field, value, max));
}

}  // namespace

absl::Status CacheGeometry::Validate() const {
  ATTND_RETURN_IF_ERROR(CheckRange("num_layers", num_layers, 1024));
  ATTND_RETURN_IF_ERROR(CheckRange("num_query_heads", num_query_heads, 1024));
  ATTND_RETURN_IF_ERROR(CheckRange("num_kv_heads", num_kv_heads, num_query_heads));
  if (num_query_heads % num_kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("geometry.num_kv_heads is %d; it must divide num_query_heads, which is %d",
                        num_kv_heads, num_query_heads));
  }
  ATTND_RETURN_IF_ERROR(CheckRange("head_dim_k", head_dim_k, 256));
  ATTND_RETURN_IF_ERROR(CheckRange("head_dim_v", head_dim_v, 256));
  ATTND_RETURN_IF_ERROR(CheckRange("page_size_tokens", page_size_tokens, kMaxPageSizeTokens));
  if (static_cast<int>(kv_dtype) >= kNumDTypes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "geometry.kv_dtype is %d; it must be f32, f16 or bf16", static_cast<int>(kv_dtype)));
  }
  return absl::OkStatus();
}

SlabLayout SlabLayout::For(const CacheGeometry& geometry) {
  // The largest valid geometry has 2 GiB rows and 2 TiB pages: nothing here comes near 64 bits.
  const uint64_t token_heads = static_cast<uint64_t>(geometry.num_kv_heads) *
                               static_cast<uint64_t>(geometry.page_size_tokens) *
                               SizeOf(geometry.kv_dtype);
  SlabLayout layout;
  layout.v_offset_bytes =
      AlignUp(token_heads * static_cast<uint64_t>(geometry.head_dim_k), kRowAlignmentBytes);
  layout.row_bytes =
      AlignUp(layout.v_offset_bytes + token_heads * static_cast<uint64_t>(geometry.head_dim_v),
              kRowAlignmentBytes);
  layout.page_bytes = layout.row_bytes * static_cast<uint64_t>(geometry.num_layers);

  // Ends by the time a slab holds 50 pages, since less than one page is ever left over.
  const uint64_t superblock = kSuperblockBytes.value();
  uint64_t superblocks = (layout.page_bytes + superblock - 1) / superblock;
  while (superblocks * superblock % layout.page_bytes * kMaxWasteDivisor >
         superblocks * superblock) {
    ++superblocks;
  }
  layout.superblocks_per_slab = static_cast<int32_t>(superblocks);
  layout.pages_per_slab = static_cast<int32_t>(superblocks * superblock / layout.page_bytes);
  layout.layer_stride_bytes = layout.row_bytes * static_cast<uint64_t>(layout.pages_per_slab);
  return layout;
}

}  // namespace attnd
