// SPDX-License-Identifier: Apache-2.0
//
// What kernels are passed: trivially copyable structs, the same on host and device. One launch has
// one AttendArgs; items and tasks lie in the upload block that the backend copies to the device
// before the launch. All pointers are addresses that the device can read.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/hip/fast_divide.h"

namespace attnd::gpu {

// As attnd::DType, which device code does not see.
enum class Type : int32_t { kF32 = 0, kF16 = 1, kBF16 = 2 };

// A [tokens, heads, dim] tensor whose dim is contiguous; rows are aligned to 16 bytes.
struct Heads {
  std::byte* data = nullptr;
  int64_t token_stride_bytes = 0;
  int64_t head_stride_bytes = 0;

  ATTND_HOST_DEVICE std::byte* Row(int token, int head) const {
    return data + token * token_stride_bytes + head * head_stride_bytes;
  }
};

// One item: attnd::AttentionItem as the device sees it.
struct Item {
  Heads q;               // [query_len, num_query_heads, head_dim_k]
  Heads out;             // [query_len, num_query_heads, head_dim_v]
  Heads new_k;           // [query_len, num_kv_heads, head_dim_k]
  Heads new_v;           // [query_len, num_kv_heads, head_dim_v]
  float* lse = nullptr;  // null: not wanted
  int64_t lse_token_stride_elems = 0;
  int64_t lse_head_stride_elems = 0;

  std::byte* k = nullptr;  // of a page at offset 0
  std::byte* v = nullptr;
  // [num_pages]: page p begins at page_places[p] << page_shift bytes.
  const uint32_t* page_places = nullptr;
  int64_t k_head_stride_bytes = 0;
  int64_t k_token_stride_bytes = 0;
  int64_t v_head_stride_bytes = 0;
  int64_t v_token_stride_bytes = 0;
  FastDivide page_size;
  // The largest power of two, at most 64, of which pages are whole multiples: as many neighbouring
  // keys, aligned, share a page.
  int32_t page_run = 1;
  int32_t num_pages = 0;
  int32_t page_shift = 0;

  int32_t query_len = 0;
  int32_t start_position = 0;
  int32_t kv_len = 0;

  // Visible keys of the query at position p: [p - window_left, p + right + 1), cut to [0, kv_len).
  int32_t window_left = 0;              // kFar: none
  int32_t window_right = 0;             // 0 where causal; kFar: none
  float scale = 1;                      // magnitude of the softmax scale
  float query_sign = 1;                 // its sign
  float softcap = 0;                    // 0: off
  const float* alibi_slopes = nullptr;  // [num_query_heads]
  const float* sinks = nullptr;         // [num_query_heads]
  const uint8_t* tree_mask = nullptr;   // [query_len, ceil(query_len / 8)]
  uint64_t dropout_seed = 0;
  uint32_t dropout_subsequence = 0;
  uint32_t dropout_threshold = 0;  // a draw below it is dropped; 0: off
  float dropout_scale = 1;         // 1 / (1 - probability)
};

// Farther than any position; sums of two stay in range.
inline constexpr int32_t kFar = 1 << 30;

// Some rows of each KV head against a range of keys, one KV head a block. Row r of an item is query
// r / group, of query head r % group of those that share the KV head.
//
// A range longer than split_keys is several splits, from key_begin on, computed one after another
// as if each were a task of its own.
struct AttendTask {
  int32_t item = 0;
  int32_t row_begin = 0;
  int32_t row_end = 0;
  int32_t key_begin = 0;
  int32_t key_end = 0;
  int32_t split_keys = kFar;
  int32_t partial_row = -1;  // first row of the partial results; -1: there is one split
  int32_t range = -1;        // of the splits, where several tasks have them; -1: it has all
};

// Rows whose splits are shared between tasks: what the block that ends last merges, for each KV
// head. With H of those and R rows, split s of row r of head h is partial row
// first_partial + (s * H + h) * R + r.
struct MergeRange {
  int32_t first_partial = 0;
  int32_t num_splits = 0;
  int32_t num_tasks = 0;
};

// Lanes of a block of the small kernels, and the tokens of one append task.
inline constexpr int kAppendThreads = 256;
inline constexpr int kAppendTokens = 16;

// Tokens [token_begin, token_end) of an item's new keys and values.
struct AppendTask {
  int32_t item = 0;
  int32_t token_begin = 0;
  int32_t token_end = 0;
  int32_t unused = 0;
};

// A row of a split, before its division: sum of weights times values, and what the weights were
// taken relative to.
struct PartialResults {
  float* values = nullptr;   // [rows, head_dim_v]
  float* largest = nullptr;  // [rows], in the units of the scores that the kernel keeps
  float* sums = nullptr;     // [rows]
};

struct AttendArgs {
  const Item* items = nullptr;
  const AttendTask* tasks = nullptr;
  const MergeRange* ranges = nullptr;
  uint32_t* ended = nullptr;  // [ranges, KV heads]: tasks that have, 0 at first
  PartialResults partial;
  FastDivide kv_heads;
  FastDivide group;     // query heads a KV head
  FastDivide chunks_v;  // of 8 numbers, of a value's row
  int32_t head_dim_k = 0;
  int32_t head_dim_v = 0;
  Type q_type = Type::kF32;  // of q and out
  Type kv_type = Type::kF32;
};

struct AppendArgs {
  const Item* items = nullptr;
  const AppendTask* tasks = nullptr;
  // Chunks of 8 numbers: of one head, and of all KV heads of a token.
  FastDivide chunks_k, chunks_k_of_token;
  FastDivide chunks_v, chunks_v_of_token;
  Type q_type = Type::kF32;
  Type kv_type = Type::kF32;
};

// A launch's upload block, from pinned host memory to the device.
struct UploadArgs {
  const std::byte* from = nullptr;
  std::byte* to = nullptr;
  int64_t bytes = 0;  // a multiple of 16
};
inline constexpr int kUploadThreads = 256;

}  // namespace attnd::gpu
