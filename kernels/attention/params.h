// SPDX-License-Identifier: Apache-2.0
//
// What one launch computes: the parameters of attention over a paged or dense KV store.
//
// These structs are plain views, trivially copyable, and own nothing; whoever launches keeps what
// they point to alive and unchanged until the launch's Event. They know no sequences, no
// sessions and no wire format. kernels/cpu/attention_reference.cc says what they mean.
//
//   AttentionItem item{.query_len = 1, .start_position = 127, .kv_len = 128, ...};
//   AttentionParams params{.key = key, .num_query_heads = 32, .num_kv_heads = 8, .items = {&item,
//   1}}; backend.Launch(stream, *plan, params);
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/attention/kernel_key.h"
#include "kernels/base/philox.h"

namespace attnd {

// A [tokens, heads, dim] tensor whose dim is contiguous.
template <typename T>
struct HeadsView {
  T* data = nullptr;  // element type is the key's dtype; aligned to its size at least
  int64_t token_stride_elems = 0;
  int64_t head_stride_elems = 0;
};

// The keys and values of one sequence in one layer. Token t of KV head h lies in page
// t / page_size_tokens; with r = t % page_size_tokens its key starts at
//   k + page_offsets[page] bytes + (h * k_head_stride_elems + r * k_token_stride_elems) elements.
// A paged cache has chunks [page][K, V][kv_head][token][dim], so a head of a page is contiguous.
// A dense tensor [tokens, heads, dim] is one page of kv_len tokens at offset 0.
struct KvView {
  std::byte* k = nullptr;  // K of a page at offset 0 of this layer
  std::byte* v = nullptr;
  const uint64_t* page_offsets = nullptr;  // [ceil(kv_len / page_size_tokens)], bytes
  int64_t page_size_tokens = 0;
  int64_t k_head_stride_elems = 0;
  int64_t k_token_stride_elems = 0;
  int64_t v_head_stride_elems = 0;
  int64_t v_token_stride_elems = 0;
};

// log(sum(exp(scaled scores))), natural logarithm, fp32; -inf for a row with nothing to attend to.
// A sink takes part in the sum.
struct LseView {
  float* data = nullptr;  // null: not wanted
  int64_t token_stride_elems = 0;
  int64_t head_stride_elems = 0;
};

inline constexpr int64_t kNoWindow = -1;

// Which keys a query sees and how scores are shaped. Query i has the absolute position
// p = start_position + i; key j is seen where every one of these holds:
//   causal: j <= p;    window_left >= 0: j >= p - window_left;    window_right >= 0: j <= p +
//   window_right; tree_mask: j < start_position, or bit (j - start_position) of row i is set.
// The score is  s = softmax_scale * (q . k);  softcap > 0: s = softcap * tanh(s / softcap);
// then ALiBi adds  -alibi_slope[head] * |p - j|;  a sink adds exp(sink[head]) to the denominator.
// (FlashAttention's order: the cap comes before the bias.)
struct ScoreOptions {
  float softmax_scale = 0.0f;
  float softcap = 0.0f;  // 0: off
  bool causal = false;
  int64_t window_left = kNoWindow;      // keys visible before the query's own position
  int64_t window_right = kNoWindow;     // and after it
  const float* alibi_slopes = nullptr;  // [num_query_heads]
  const float* sinks = nullptr;         // [num_query_heads], logits
  const uint8_t* tree_mask = nullptr;   // [query_len, ceil(query_len / 8)], LSB first
  Dropout dropout;
};

// One sequence in one layer: write query_len new keys and values at start_position, or none, then
// attend the queries over [0, kv_len).
struct AttentionItem {
  int64_t query_len = 0;       // rows of q and out; of new_k and new_v where those are present
  int64_t start_position = 0;  // position of row 0; negative only for dense calls with Sq > Sk
  int64_t kv_len = 0;          // keys that exist once new_k and new_v are written
  HeadsView<const void> q;     // [query_len, num_query_heads, head_dim_k]; null: write only
  HeadsView<const void>
      new_k;  // [query_len, num_kv_heads, head_dim_k], in q_dtype; null: read only
  HeadsView<const void> new_v;  // [query_len, num_kv_heads, head_dim_v], in q_dtype
  KvView kv;                    // in kv_dtype
  HeadsView<void> out;          // [query_len, num_query_heads, head_dim_v], in q_dtype
  LseView lse;                  // [query_len, num_query_heads]
  ScoreOptions options;
};

// A launch: items of one KernelKey. No two items write what the other reads or writes. Every
// item's new keys and values are in place before any of its queries reads them.
struct AttentionParams {
  KernelKey key;
  int32_t num_query_heads = 0;
  int32_t num_kv_heads = 0;  // divides num_query_heads
  std::span<const AttentionItem> items;
};

// One page in all layers: `num_layers` rows of `row_bytes`, `layer_stride_bytes` apart.
struct PageCopy {
  std::byte* destination = nullptr;
  const std::byte* source = nullptr;
  uint64_t row_bytes = 0;
  uint64_t layer_stride_bytes = 0;
  int32_t num_layers = 0;
};

}  // namespace attnd
