// SPDX-License-Identifier: Apache-2.0
//
// One item of a request as the scheduler and the engine see it: validated, its tensors in staging,
// its kernel chosen, nothing of the wire format left.
//
// A cached item names a layer of a sequence; a dense one (FlashAttention) brings its keys and
// values. Plain data; pointers are into the request's staging buffers, which live as long as the
// item.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "kernels/attention/kernel_key.h"
#include "kernels/attention/params.h"
#include "kv_cache/kv_cache.h"

namespace attnd {

struct WorkItem {
  KernelKey key;
  int32_t num_query_heads = 0;
  int32_t num_kv_heads = 0;

  // Absent for a dense item.
  std::optional<LayerAccess> access;
  // Where it runs: the sequence's device; of a dense item whichever the scheduler chooses.
  DeviceIndex device;

  // [query_len, heads, dim], dense; null where the item has none. For a dense item k and v hold all
  // kv_len keys, for a cached one the query_len new ones.
  int64_t query_len = 0;
  const std::byte* q = nullptr;
  const std::byte* k = nullptr;
  const std::byte* v = nullptr;
  int64_t dense_start_position = 0;  // dense items: kv_len - query_len, may be negative
  int64_t dense_kv_len = 0;

  HeadsView<void> out;  // strides as the response's layout wants them; null: write only
  LseView lse;
  ScoreOptions options;

  int64_t num_tokens() const { return query_len; }
};

}  // namespace attnd
