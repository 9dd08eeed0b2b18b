// SPDX-License-Identifier: Apache-2.0
#include "server/engine/launch_params.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace attnd {
namespace {

// A dense tensor is one page at offset 0.
constexpr uint64_t kDenseOffsets[] = {0};

// [tokens, heads, dim], dense.
HeadsView<const void> DenseHeads(const std::byte* data, int64_t heads, int64_t dim) {
  return {.data = data, .token_stride_elems = heads * dim, .head_stride_elems = dim};
}

KvView DenseKv(const WorkItem& work) {
  const int64_t heads = work.num_kv_heads;
  const int64_t dim_k = work.key.head_dim_k, dim_v = work.key.head_dim_v;
  // Kernels write only through new_k and new_v, which a dense item does not have.
  return {.k = const_cast<std::byte*>(work.k),
          .v = const_cast<std::byte*>(work.v),
          .page_offsets = kDenseOffsets,
          .page_size_tokens = std::max<int64_t>(work.dense_kv_len, 1),
          .k_head_stride_elems = dim_k,
          .k_token_stride_elems = heads * dim_k,
          .v_head_stride_elems = dim_v,
          .v_token_stride_elems = heads * dim_v};
}

// Pages hold [K, V][kv_head][token][dim].
KvView PagedKv(const PageLease& lease) {
  const PageLease::View& view = lease.view();
  const int64_t page_size = view.geometry.page_size_tokens;
  const int64_t dim_k = view.geometry.head_dim_k, dim_v = view.geometry.head_dim_v;
  return {.k = view.layer_base,
          .v = view.layer_base + view.layout.v_offset_bytes,
          .page_offsets = lease.page_offsets().data(),
          .page_size_tokens = page_size,
          .k_head_stride_elems = page_size * dim_k,
          .k_token_stride_elems = dim_k,
          .v_head_stride_elems = page_size * dim_v,
          .v_token_stride_elems = dim_v};
}

}  // namespace

AttentionItem MakeAttentionItem(const WorkItem& work, const PageLease* lease) {
  AttentionItem item;
  item.query_len = work.query_len;
  item.q = DenseHeads(work.q, work.num_query_heads, work.key.head_dim_k);
  item.out = work.out;
  item.lse = work.lse;
  item.options = work.options;
  if (lease == nullptr) {
    item.start_position = work.dense_start_position;
    item.kv_len = work.dense_kv_len;
    item.kv = DenseKv(work);
    return item;
  }
  item.start_position = lease->view().start_position.value();
  item.kv_len = lease->view().kv_len.value();
  item.kv = PagedKv(*lease);
  // A step that was applied before attends again and writes nothing.
  if (work.k != nullptr && !lease->replayed()) {
    item.new_k = DenseHeads(work.k, work.num_kv_heads, work.key.head_dim_k);
    item.new_v = DenseHeads(work.v, work.num_kv_heads, work.key.head_dim_v);
  }
  return item;
}

}  // namespace attnd
