// SPDX-License-Identifier: Apache-2.0
//
// The shapes of an item, derived from its cache's geometry and checked before anything is sent.
//
// Pure functions, safe from any thread.
//
//   ATTND_ASSIGN_OR_RETURN(int64_t n, CheckItem(item, geometry, "items[3]"));
#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cpp/attend.h"
#include "client/cpp/flash_attention.h"
#include "client/cpp/types.h"

namespace attnd::client {

// The item's number of rows. INVALID_ARGUMENT "items[3].k has 200 elements; expected 192 = 1 rows x
// 3 num_kv_heads x 64 head_dim_k", likewise for every tensor, dtype and option.
absl::StatusOr<int64_t> CheckItem(const AttendItem& item, const CacheGeometry& geometry,
                                  std::string_view name);

// The rows of q and k of a FlashAttention call, over its whole batch.
struct FlashRows {
  int64_t query_rows = 0;
  int64_t key_rows = 0;
};
absl::StatusOr<FlashRows> CheckFlash(const FlashAttentionArgs& args);

}  // namespace attnd::client
