// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/internal/convert.h"

#include <chrono>

namespace attnd::client {
namespace {

// Caches and capabilities hold f32, f16 and bf16 only; what a newer daemon adds reads as f32 here,
// and its calls say UNIMPLEMENTED.
DType FromProto(v1::DType dtype) {
  if (dtype == v1::DTYPE_F16) return DType::kF16;
  if (dtype == v1::DTYPE_BF16) return DType::kBF16;
  return DType::kF32;
}

void AppendF32(std::span<const float> values, MessageWriter& writer, v1::Tensor* tensor) {
  tensor->set_dtype(v1::DTYPE_F32);
  tensor->add_shape(static_cast<int64_t>(values.size()));
  tensor->set_offset_bytes(writer.Append(values.data(), values.size_bytes()));
}

}  // namespace

v1::DType ToProto(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return v1::DTYPE_F32;
    case DType::kF16:
      return v1::DTYPE_F16;
    case DType::kBF16:
      return v1::DTYPE_BF16;
  }
  return v1::DTYPE_UNSPECIFIED;
}

void ToProto(const Id& id, v1::Id* proto) {
  proto->set_boot(id.boot);
  proto->set_handle(id.handle);
}

void ToProto(const CacheGeometry& geometry, v1::CacheGeometry* proto) {
  proto->set_num_layers(geometry.num_layers);
  proto->set_num_query_heads(geometry.num_query_heads);
  proto->set_num_kv_heads(geometry.num_kv_heads);
  proto->set_head_dim_k(geometry.head_dim_k);
  proto->set_head_dim_v(geometry.head_dim_v);
  proto->set_kv_dtype(ToProto(geometry.kv_dtype));
  proto->set_page_size_tokens(geometry.page_size_tokens);
}

void ToProto(const AttentionOptions& options, int64_t query_len, MessageWriter& writer,
             v1::AttentionOptions* proto) {
  proto->set_causal(options.causal);
  if (options.softmax_scale) proto->set_softmax_scale(*options.softmax_scale);
  if (options.window_left) proto->set_window_left(*options.window_left);
  if (options.window_right) proto->set_window_right(*options.window_right);
  proto->set_softcap(options.softcap);
  if (!options.alibi_slopes.empty()) {
    AppendF32(options.alibi_slopes, writer, proto->mutable_alibi_slopes());
  }
  if (!options.sinks.empty()) AppendF32(options.sinks, writer, proto->mutable_sinks());
  if (!options.tree_mask.empty()) {
    v1::Tensor* mask = proto->mutable_tree_mask();
    mask->set_dtype(v1::DTYPE_U8);
    mask->add_shape(query_len);
    mask->add_shape((query_len + 7) / 8);
    mask->set_offset_bytes(writer.Append(options.tree_mask.data(), options.tree_mask.size()));
  }
  if (options.dropout.probability != 0.0f) {
    proto->mutable_dropout()->set_probability(options.dropout.probability);
    proto->mutable_dropout()->set_seed(options.dropout.seed);
    proto->mutable_dropout()->set_subsequence(options.dropout.subsequence);
  }
  proto->set_return_lse(options.return_lse);
}

Id FromProto(const v1::Id& proto) { return {.boot = proto.boot(), .handle = proto.handle()}; }

CacheGeometry FromProto(const v1::CacheGeometry& proto) {
  return {.num_layers = proto.num_layers(),
          .num_query_heads = proto.num_query_heads(),
          .num_kv_heads = proto.num_kv_heads(),
          .head_dim_k = proto.head_dim_k(),
          .head_dim_v = proto.head_dim_v(),
          .kv_dtype = FromProto(proto.kv_dtype()),
          .page_size_tokens = proto.page_size_tokens()};
}

CacheInfo FromProto(const v1::CacheInfo& proto) {
  return {.id = FromProto(proto.cache()),
          .name = proto.name(),
          .geometry = FromProto(proto.geometry()),
          .page_quota = proto.page_quota(),
          .pages_used = proto.pages_used(),
          .pages_cached = proto.pages_cached(),
          .pages_free = proto.pages_free(),
          .pages_reserved = proto.pages_reserved(),
          .slabs = proto.slabs(),
          .slab_bytes = proto.slab_bytes(),
          .page_bytes = proto.page_bytes(),
          .sequences = proto.sequences(),
          .tenant = proto.tenant()};
}

SequenceInfo FromProto(const v1::SequenceInfo& proto) {
  return {.id = FromProto(proto.sequence()),
          .cache = FromProto(proto.cache()),
          .layer_lengths = {proto.layer_lengths().begin(), proto.layer_lengths().end()},
          .layer_steps = {proto.layer_steps().begin(), proto.layer_steps().end()},
          .pages = proto.pages(),
          .shared_pages = proto.shared_pages(),
          .client_state = proto.client_state(),
          .client_state_version = proto.client_state_version()};
}

SessionInfo FromProto(const v1::SessionInfo& proto) {
  return {.id = FromProto(proto.session()),
          .label = proto.label(),
          .epoch = proto.epoch(),
          .sequences = proto.sequences(),
          .lease = std::chrono::milliseconds(proto.lease_ms()),
          .lease_remaining = std::chrono::milliseconds(proto.lease_remaining_ms()),
          .tenant = proto.tenant()};
}

Capabilities FromProto(const v1::GetCapabilitiesResponse& proto) {
  Capabilities result{.version = proto.version(),
                      .backend = proto.backend(),
                      .isa = proto.isa(),
                      .device = proto.device(),
                      .dtypes = {},
                      .head_dims = {},
                      .any_head_dim = proto.any_head_dim(),
                      .max_head_dim = proto.max_head_dim(),
                      .max_page_size_tokens = proto.max_page_size_tokens(),
                      .features = {proto.features().begin(), proto.features().end()},
                      .max_items_per_request = proto.max_items_per_request(),
                      .max_tokens_per_request = proto.max_tokens_per_request(),
                      .max_message_bytes = proto.max_message_bytes()};
  for (const v1::DTypePair& pair : proto.dtypes()) {
    result.dtypes.emplace_back(FromProto(pair.q()), FromProto(pair.kv()));
  }
  for (const v1::HeadDimPair& pair : proto.head_dims()) {
    result.head_dims.emplace_back(pair.k(), pair.v());
  }
  return result;
}

Stats FromProto(const v1::GetStatsResponse& proto) {
  Stats result{.version = proto.version(),
               .uptime_seconds = proto.uptime_seconds(),
               .backend = proto.backend(),
               .device = proto.device(),
               .draining = proto.draining(),
               .pool_bytes = proto.pool_bytes(),
               .pool_free_bytes = proto.pool_free_bytes(),
               .devices = {},
               .caches = {},
               .sessions = proto.sessions(),
               .sequences = proto.sequences(),
               .queued_items = proto.queued_items(),
               .queued_tokens = proto.queued_tokens(),
               .requests_total = proto.requests_total(),
               .items_total = proto.items_total(),
               .launches_total = proto.launches_total(),
               .tokens_written_total = proto.tokens_written_total(),
               .tokens_attended_total = proto.tokens_attended_total(),
               .kernel_seconds_total = proto.kernel_seconds_total(),
               .resident_bytes = proto.resident_bytes(),
               .prefix_tokens_queried_total = proto.prefix_tokens_queried_total(),
               .prefix_tokens_matched_total = proto.prefix_tokens_matched_total(),
               .prefix_pages_evicted_total = proto.prefix_pages_evicted_total(),
               .tenants = {}};
  for (const v1::TenantStats& tenant : proto.tenants()) {
    result.tenants.push_back({.name = tenant.name(),
                              .kv_bytes = tenant.kv_bytes(),
                              .kv_bytes_limit = tenant.kv_bytes_limit(),
                              .caches = tenant.caches(),
                              .caches_limit = tenant.caches_limit(),
                              .sessions = tenant.sessions(),
                              .sessions_limit = tenant.sessions_limit(),
                              .sequences = tenant.sequences(),
                              .sequences_limit = tenant.sequences_limit(),
                              .refused_total = tenant.refused_total()});
  }
  for (const v1::DeviceStats& device : proto.devices()) {
    result.devices.push_back({.name = device.name(),
                              .pool_bytes = device.pool_bytes(),
                              .pool_free_bytes = device.pool_free_bytes(),
                              .sequences = device.sequences(),
                              .failure = device.failure(),
                              .host_memory = device.host_memory()});
  }
  for (const v1::CacheInfo& cache : proto.caches()) result.caches.push_back(FromProto(cache));
  return result;
}

RequestTiming FromProto(const v1::RequestTiming& proto) {
  return {.stage_in = Duration(proto.stage_in_ns()),
          .queue = Duration(proto.queue_ns()),
          .kernel = Duration(proto.kernel_ns()),
          .stage_out = Duration(proto.stage_out_ns())};
}

}  // namespace attnd::client
