// SPDX-License-Identifier: Apache-2.0
#include "kv_cache/geometry.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace attnd {
namespace {

CacheGeometry Valid() {
  return {.num_layers = 30,
          .num_query_heads = 9,
          .num_kv_heads = 3,
          .head_dim_k = 64,
          .head_dim_v = 64,
          .kv_dtype = DType::kF32,
          .page_size_tokens = 16};
}

TEST(CacheGeometryTest, ErrorNamesFieldValueAndRange) {
  const std::vector<std::pair<int32_t CacheGeometry::*, std::string>> fields = {
      {&CacheGeometry::num_layers, "num_layers"},
      {&CacheGeometry::num_query_heads, "num_query_heads"},
      {&CacheGeometry::num_kv_heads, "num_kv_heads"},
      {&CacheGeometry::head_dim_k, "head_dim_k"},
      {&CacheGeometry::head_dim_v, "head_dim_v"},
      {&CacheGeometry::page_size_tokens, "page_size_tokens"}};
  EXPECT_TRUE(Valid().Validate().ok());
  for (const auto& [field, name] : fields) {
    for (int32_t bad : {0, -1, INT32_MIN, 1025, INT32_MAX}) {
      CacheGeometry geometry = Valid();
      geometry.*field = bad;
      const absl::Status status = geometry.Validate();
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name << " = " << bad;
      EXPECT_NE(status.message().find(name + " is " + std::to_string(bad)), std::string::npos)
          << status;
    }
  }
}

TEST(CacheGeometryTest, QueryHeadsMustBeAMultipleOfKvHeads) {
  CacheGeometry geometry = Valid();
  geometry.num_kv_heads = 2;
  EXPECT_EQ(geometry.Validate().code(), absl::StatusCode::kInvalidArgument);
  geometry.num_kv_heads = 9;
  EXPECT_TRUE(geometry.Validate().ok());
}

TEST(CacheGeometryTest, UnknownDTypeIsInvalid) {
  CacheGeometry geometry = Valid();
  geometry.kv_dtype = static_cast<DType>(17);
  EXPECT_EQ(geometry.Validate().code(), absl::StatusCode::kInvalidArgument);
}

TEST(SlabLayoutTest, SmolLm2) {
  const SlabLayout layout = SlabLayout::For(Valid());
  EXPECT_EQ(layout.v_offset_bytes, 3u * 16 * 64 * 4);
  EXPECT_EQ(layout.row_bytes, 2 * layout.v_offset_bytes);
  EXPECT_EQ(layout.page_bytes, 30 * layout.row_bytes);
  EXPECT_EQ(layout.superblocks_per_slab, 5);
  EXPECT_EQ(layout.pages_per_slab, 14);
  EXPECT_EQ(layout.layer_stride_bytes, 14 * layout.row_bytes);
}

// Over many geometries, the extreme ones too.
TEST(SlabLayoutTest, FewestSuperblocksThatWasteAtMostTwoPercent) {
  for (int32_t layers : {1, 2, 3, 30, 80, 1024}) {
    for (int32_t heads : {1, 3, 8, 1024}) {
      for (int32_t dim : {1, 64, 80, 256}) {
        for (int32_t page_size : {1, 16, 1024}) {
          for (DType dtype : {DType::kF32, DType::kF16}) {
            const CacheGeometry geometry{.num_layers = layers,
                                         .num_query_heads = heads,
                                         .num_kv_heads = heads,
                                         .head_dim_k = dim,
                                         .head_dim_v = dim == 256 ? 1 : dim,
                                         .kv_dtype = dtype,
                                         .page_size_tokens = page_size};
            ASSERT_TRUE(geometry.Validate().ok());
            const SlabLayout layout = SlabLayout::For(geometry);
            const uint64_t slab = layout.slab_bytes().value();
            const uint64_t used = layout.page_bytes * static_cast<uint64_t>(layout.pages_per_slab);
            ASSERT_GE(layout.pages_per_slab, 1);
            ASSERT_LE(used, slab);
            ASSERT_LE((slab - used) * 50, slab);
            ASSERT_EQ(layout.row_bytes % 64, 0u);
            ASSERT_EQ(layout.v_offset_bytes % 64, 0u);
            const uint64_t fewer = slab - kSuperblockBytes.value();
            const uint64_t waste = fewer % layout.page_bytes;
            ASSERT_TRUE(fewer < layout.page_bytes || waste * 50 > fewer);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace attnd
