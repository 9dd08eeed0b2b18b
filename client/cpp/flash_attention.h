// SPDX-License-Identifier: Apache-2.0
//
// The stateless FlashAttention call: attention over the tensors of the call alone.
//
// Dense: q [batch, query_len, num_query_heads, head_dim_k], k [batch, key_len, num_kv_heads,
// head_dim_k], v [batch, key_len, num_kv_heads, head_dim_v]. Ragged, where cu_seqlens are given:
// q [total_q, ...], k and v [total_k, ...]; sequence b has rows cu_seqlens[b] to cu_seqlens[b + 1].
// A causal mask is aligned to the lower right corner. Plain values that borrow; no locking.
//
//   FlashAttentionArgs args{.batch = 2, .query_len = 128, .key_len = 128, .num_query_heads = 8,
//                           .num_kv_heads = 8, .head_dim_k = 64, .q = q, .k = k, .v = v};
//   absl::StatusOr<FlashAttentionResult> result = client->FlashAttention(args);
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "client/cpp/tensor.h"
#include "client/cpp/types.h"

namespace attnd::client {

struct FlashAttentionArgs {
  int64_t batch = 1;  // dense only, as are query_len and key_len
  int64_t query_len = 0;
  int64_t key_len = 0;
  std::span<const int64_t> cu_seqlens_q{};  // [B + 1], the first 0, not decreasing
  std::span<const int64_t> cu_seqlens_k{};  // [B + 1]
  int32_t num_query_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim_k = 0;
  int32_t head_dim_v = 0;  // 0: head_dim_k
  ConstTensor q{};
  ConstTensor k{};
  ConstTensor v{};
  AttentionOptions options{};
  MutableTensor out{};  // like q with head_dim_v; not given: the result views the received message
  MutableTensor lse{};  // f32 [batch, num_query_heads, query_len], or [num_query_heads, total_q]

  bool ragged() const { return !cu_seqlens_q.empty() || !cu_seqlens_k.empty(); }
};

class FlashAttentionResult {
 public:
  FlashAttentionResult();
  ~FlashAttentionResult();
  FlashAttentionResult(FlashAttentionResult&&) noexcept;
  FlashAttentionResult& operator=(FlashAttentionResult&&) noexcept;

  const TensorView& out() const { return out_; }
  const TensorView& lse() const { return lse_; }
  const RequestTiming& timing() const { return timing_; }

 private:
  friend class FlashCodec;
  struct Received;

  TensorView out_;
  TensorView lse_;
  RequestTiming timing_;
  std::unique_ptr<Received> received_;
};

}  // namespace attnd::client
