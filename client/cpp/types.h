// SPDX-License-Identifier: Apache-2.0
//
// The plain values of the client's interface: ids, geometries, options, descriptions.
//
// They mirror the messages of proto/attnd/v1, whose comments are the reference for their meaning.
// Plain structs; no locking.
//
//   CacheGeometry geometry{.num_layers = 30, .num_query_heads = 9, .num_kv_heads = 3,
//                          .head_dim_k = 64, .kv_dtype = DType::kF16};
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/clock.h"
#include "kernels/base/dtype.h"
#include "kernels/base/philox.h"

namespace attnd::client {

// Names one object of a daemon. Opaque: compare, store, hand back.
struct Id {
  uint64_t boot = 0;
  uint64_t handle = 0;

  bool operator==(const Id&) const = default;
  std::string ToString() const;  // "5f3a...:17", for people
  template <typename H>
  friend H AbslHashValue(H h, const Id& id) {
    return H::combine(std::move(h), id.boot, id.handle);
  }
};

// What a cache stores for one token. OpenCache says which values a daemon takes.
struct CacheGeometry {
  int32_t num_layers = 0;
  int32_t num_query_heads = 0;  // a multiple of num_kv_heads
  int32_t num_kv_heads = 0;
  int32_t head_dim_k = 0;
  int32_t head_dim_v = 0;  // 0: head_dim_k
  DType kv_dtype = DType::kF32;
  int32_t page_size_tokens = 16;

  int32_t value_dim() const { return head_dim_v == 0 ? head_dim_k : head_dim_v; }
  std::string ToString() const;  // "30 layers, 9/3 heads, dim 64, f16, pages of 16"
};

struct CacheInfo {
  Id id{};
  std::string name{};
  CacheGeometry geometry{};
  int64_t page_quota = 0;      // 0: no limit but the pool's
  int64_t pages_used = 0;      // owned by at least one sequence
  int64_t pages_cached = 0;    // published and held by no sequence: evicted when pages run out
  int64_t pages_free = 0;      // in slabs of this cache
  int64_t pages_reserved = 0;  // of the free ones, promised to admitted items
  int64_t slabs = 0;
  uint64_t slab_bytes = 0;
  uint64_t page_bytes = 0;  // one page, all layers, K and V
  int64_t sequences = 0;
  std::string tenant{};  // whose it is; empty where callers are not told apart
};

struct SequenceInfo {
  Id id{};
  Id cache{};
  std::vector<int64_t> layer_lengths{};  // tokens; resume at the minimum
  std::vector<uint64_t> layer_steps{};   // the step applied last, 0 for none
  int64_t pages = 0;
  int64_t shared_pages = 0;
  std::string client_state{};  // from Describe and ResumeSession only
  uint64_t client_state_version = 0;

  int64_t min_length() const;  // the shortest layer: tokens that are complete; 0 without layers
};

// A prompt, by the content keys of its full pages: each of 16 to 64 bytes, a hash of the key before
// and of the page's tokens. Borrows.
struct Prefix {
  std::span<const std::string> keys{};  // at most num_tokens / page_size_tokens
  int64_t num_tokens = 0;               // at least 1
};

struct SessionInfo {
  Id id{};
  std::string label{};
  uint64_t epoch = 0;
  int64_t sequences = 0;
  Duration lease{};
  Duration lease_remaining{};
  std::string tenant{};  // as of a cache
};

// Which keys a query sees and how scores are shaped; proto/attnd/v1/types.proto has the formulas.
// The spans borrow, as tensors do.
struct AttentionOptions {
  bool causal = false;
  std::optional<float> softmax_scale{};   // default 1 / sqrt(head_dim_k)
  std::optional<int64_t> window_left{};   // keys visible before the query's own position
  std::optional<int64_t> window_right{};  // and after it
  float softcap = 0.0f;                   // 0: off
  std::span<const float> alibi_slopes{};  // [num_query_heads]
  std::span<const float> sinks{};         // [num_query_heads], logits
  std::span<const uint8_t> tree_mask{};   // [n, ceil(n / 8)], least significant bit first
  Dropout dropout{};
  bool return_lse = false;
};

// What a daemon's backend supports, and its limits.
struct Capabilities {
  std::string version{};
  std::string backend{};
  std::string isa{};
  std::string device{};
  std::vector<std::pair<DType, DType>> dtypes{};         // (q, kv)
  std::vector<std::pair<int32_t, int32_t>> head_dims{};  // (k, v), the tuned ones
  bool any_head_dim = false;
  int32_t max_head_dim = 0;
  int64_t max_page_size_tokens = 0;
  std::vector<std::string> features{};
  int64_t max_items_per_request = 0;
  int64_t max_tokens_per_request = 0;
  uint64_t max_message_bytes = 0;

  bool Has(const std::string& feature) const;
};

// A device of the daemon's, the KV pool on it and the sequences that live there.
struct DeviceStats {
  std::string name{};
  uint64_t pool_bytes = 0;
  uint64_t pool_free_bytes = 0;
  int64_t sequences = 0;
  std::string failure{};  // why it is fenced, its sequences DATA_LOSS; empty where it works
  bool host_memory = false;
};

// What a tenant holds and may hold at most; a limit of 0 is the daemon's own.
struct TenantStats {
  std::string name{};  // empty where callers are not told apart
  uint64_t kv_bytes = 0, kv_bytes_limit = 0;
  int64_t caches = 0, caches_limit = 0;
  int64_t sessions = 0, sessions_limit = 0;
  int64_t sequences = 0, sequences_limit = 0;
  uint64_t refused_total = 0;  // by any of its limits
};

// One consistent look at the daemon; a tenant's is at what is its own.
struct Stats {
  std::string version{};
  double uptime_seconds = 0;
  std::string backend{};
  std::string device{};  // the first of devices
  bool draining = false;
  uint64_t pool_bytes = 0;  // of all devices
  uint64_t pool_free_bytes = 0;
  std::vector<DeviceStats> devices{};
  std::vector<CacheInfo> caches{};
  int64_t sessions = 0;
  int64_t sequences = 0;
  int64_t queued_items = 0;
  int64_t queued_tokens = 0;
  uint64_t requests_total = 0;
  uint64_t items_total = 0;
  uint64_t launches_total = 0;
  uint64_t tokens_written_total = 0;   // counted once a layer
  uint64_t tokens_attended_total = 0;  // counted once a layer
  double kernel_seconds_total = 0;
  uint64_t resident_bytes = 0;
  uint64_t prefix_tokens_queried_total = 0;  // of prompts that came with a Prefix
  uint64_t prefix_tokens_matched_total = 0;  // of these, not computed again
  uint64_t prefix_pages_evicted_total = 0;
  std::vector<TenantStats> tenants{};  // that the caller may see
};

// Where the time of a request went inside the daemon; the parts add up to the total.
struct RequestTiming {
  Duration stage_in{};
  Duration queue{};
  Duration kernel{};
  Duration stage_out{};

  Duration total() const { return stage_in + queue + kernel + stage_out; }
};

// How long one call may take, retries included.
struct CallOptions {
  Duration timeout{};  // 0: ClientOptions::call_timeout
};

}  // namespace attnd::client
