// SPDX-License-Identifier: Apache-2.0
//
// From a request of the wire to work items: every check that can be made before the item's turn
// comes, and nothing allocated in proportion to a size that a client merely claims.
//
// What makes a request unreadable as a whole (no session, a superseded epoch, an empty batch,
// limits, one sequence and layer twice) fails it; what concerns one item (an unknown sequence,
// shapes, an unsupported combination) is that item's status and the others go on. NaN and
// infinities in tensors are data like any other. What depends on earlier items, such as holes and
// steps, is checked when the item is launched (kv_cache Pin). Pure functions of their arguments,
// safe from any thread.
//
//   ATTND_ASSIGN_OR_RETURN(PreparedBatch batch, ValidateAttend(header, tensor_bytes, context));
//   ATTND_RETURN_IF_ERROR(batch.Stage(message.tensor_data, staging, request));
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "attnd/v1/attention.pb.h"
#include "kernels/attention/kernel_key.h"
#include "kernels/attention/params.h"
#include "kernels/backend/attention_backend.h"
#include "kv_cache/access.h"
#include "kv_cache/kv_cache.h"
#include "server/engine/staging.h"
#include "server/engine/work_item.h"
#include "server/observe/metrics.h"
#include "server/rpc/tensors.h"
#include "server/rpc/wire.h"
#include "server/scheduler/request.h"

namespace attnd {

struct RequestLimits {
  int64_t max_items = 8192;
  int64_t max_tokens = 1 << 18;  // query tokens, summed over the items
  uint64_t max_message_bytes = 0;
  int64_t max_stream_requests = 64;  // in flight on one AttendStream
};

struct ValidationContext {
  KvCache& cache;
  const AttentionBackend& backend;
  const RequestLimits& limits;
  TenantIndex tenant{};  // who asks
};

// Where one item's tensors lie: the first six in the input staging buffer, the others in the
// output. The items of a FlashAttention share one out and one lse: item 0 has the bytes of all, the
// others 0.
struct ItemOffsets {
  static constexpr uint64_t kNone = UINT64_MAX;
  uint64_t q = kNone, k = kNone, v = kNone;
  uint64_t alibi = kNone, sinks = kNone, tree_mask = kNone;
  uint64_t out = kNone, lse = kNone;
  uint64_t out_bytes = 0, lse_bytes = 0;
};

// A validated request: the items to run, without memory yet, and those that were refused.
struct PreparedBatch {
  struct Refused {
    int64_t index = 0;  // in the request
    absl::Status status;
  };

  int64_t num_items = 0;             // of the request: items.size() + refused.size()
  std::vector<WorkItem> items;       // pointers are set by Stage
  std::vector<ItemOffsets> offsets;  // of `items`
  std::vector<Refused> refused;      // by index
  InputLayout input{0};
  OutputLayout output;
  Phase phase = Phase::kDecode;

  // Allocates both staging buffers, copies the tensors into the first, points the items at them and
  // moves all three into `request`. RESOURCE_EXHAUSTED where staging memory, or the share of it
  // that `request.tenant` has, is used up.
  absl::Status Stage(std::span<const ByteRange> tensor_data, Staging& staging, Request& request);
};

absl::StatusOr<PreparedBatch> ValidateAttend(const v1::AttendRequest& request,
                                             uint64_t tensor_bytes,
                                             const ValidationContext& context);

// One dense item for each sequence of the batch. Out and lse of all items lie together in the
// layout of the response's two tensors; those of item 0 start first.
absl::StatusOr<PreparedBatch> ValidateFlashAttention(const v1::FlashAttentionRequest& request,
                                                     uint64_t tensor_bytes,
                                                     const ValidationContext& context);

// ------------------------------------------------------- shared by the two; validate_options.cc

struct ScoreSpec {
  ScoreOptions options;  // without the pointers
  FeatureSet features;
  std::optional<TensorRange> alibi, sinks, tree_mask;
};

struct ScoreShape {
  int64_t item = -1;  // for messages
  int64_t num_query_heads = 0;
  int64_t head_dim_k = 0;
  int64_t rows = 0;
};

absl::StatusOr<ScoreSpec> ValidateOptions(const v1::AttentionOptions& options,
                                          const ScoreShape& shape, uint64_t tensor_bytes);

// Places the tensors of `spec` and fills in the item's options, features and lse.
void PlaceOptions(const ScoreSpec& spec, InputLayout& input, WorkItem& item, ItemOffsets& offsets);

// Supports(key), with the reason that clients read.
absl::Status CheckBackendSupports(const AttentionBackend& backend, const KernelKey& key,
                                  const FieldName& name);

}  // namespace attnd
