// SPDX-License-Identifier: Apache-2.0
#include "server/rpc/convert.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"

namespace attnd {

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

absl::StatusOr<CacheGeometry> FromProto(const v1::CacheGeometry& proto) {
  CacheGeometry geometry;
  geometry.num_layers = proto.num_layers();
  geometry.num_query_heads = proto.num_query_heads();
  geometry.num_kv_heads = proto.num_kv_heads();
  geometry.head_dim_k = proto.head_dim_k();
  geometry.head_dim_v = proto.head_dim_v() == 0 ? proto.head_dim_k() : proto.head_dim_v();
  if (proto.page_size_tokens() != 0) geometry.page_size_tokens = proto.page_size_tokens();
  switch (proto.kv_dtype()) {
    case v1::DTYPE_F32:
      geometry.kv_dtype = DType::kF32;
      break;
    case v1::DTYPE_F16:
      geometry.kv_dtype = DType::kF16;
      break;
    case v1::DTYPE_BF16:
      geometry.kv_dtype = DType::kBF16;
      break;
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("geometry.kv_dtype: ", static_cast<int>(proto.kv_dtype()),
                       ", expected DTYPE_F32, DTYPE_F16 or DTYPE_BF16"));
  }
  return geometry;
}

void ToProto(const CacheGeometry& geometry, v1::CacheGeometry& proto) {
  proto.set_num_layers(geometry.num_layers);
  proto.set_num_query_heads(geometry.num_query_heads);
  proto.set_num_kv_heads(geometry.num_kv_heads);
  proto.set_head_dim_k(geometry.head_dim_k);
  proto.set_head_dim_v(geometry.head_dim_v);
  proto.set_kv_dtype(ToProto(geometry.kv_dtype));
  proto.set_page_size_tokens(geometry.page_size_tokens);
}

void ToProto(const CacheInfo& info, v1::CacheInfo& proto) {
  ToProto(info.cache, *proto.mutable_cache());
  proto.set_name(info.name);
  ToProto(info.geometry, *proto.mutable_geometry());
  proto.set_page_quota(info.quota.value());
  proto.set_pages_used(info.used.value());
  proto.set_pages_cached(info.cached.value());
  proto.set_pages_free(info.free.value());
  proto.set_pages_reserved(info.reserved.value());
  proto.set_slabs(info.num_slabs);
  proto.set_slab_bytes(info.layout.slab_bytes().value());
  proto.set_page_bytes(info.layout.page_bytes);
  proto.set_sequences(info.num_sequences);
  proto.set_tenant(info.tenant_name);
}

void ToProto(SequenceInfo info, v1::SequenceInfo& proto) {
  ToProto(info.sequence, *proto.mutable_sequence());
  ToProto(info.cache, *proto.mutable_cache());
  proto.mutable_layer_lengths()->Add(info.layer_lengths.begin(), info.layer_lengths.end());
  proto.mutable_layer_steps()->Add(info.layer_steps.begin(), info.layer_steps.end());
  proto.set_pages(info.pages.value());
  proto.set_shared_pages(info.shared_pages.value());
  proto.set_client_state(std::move(info.client_state));
  proto.set_client_state_version(info.client_state_version);
}

void ToProto(const TenantInfo& info, uint64_t refused_by_queue, v1::TenantStats& proto) {
  proto.set_name(info.name);
  proto.set_kv_bytes(info.kv_bytes.value());
  proto.set_kv_bytes_limit(info.limits.kv_bytes.value());
  proto.set_caches(info.caches);
  proto.set_caches_limit(info.limits.caches);
  proto.set_sessions(info.sessions);
  proto.set_sessions_limit(info.limits.sessions);
  proto.set_sequences(info.sequences);
  proto.set_sequences_limit(info.limits.sequences);
  proto.set_refused_total(info.refused_kv_bytes + info.refused_caches + info.refused_sessions +
                          info.refused_sequences + refused_by_queue);
}

void ToProto(const SessionInfo& info, v1::SessionInfo& proto) {
  ToProto(info.session, *proto.mutable_session());
  proto.set_label(info.label);
  proto.set_epoch(info.epoch);
  proto.set_sequences(info.num_sequences);
  proto.set_lease_ms(ToMs(info.lease));
  proto.set_lease_remaining_ms(ToMs(info.lease_remaining));
  proto.set_tenant(info.tenant_name);
}

absl::StatusOr<Duration> DurationFromMs(int64_t ms, absl::string_view field) {
  if (ms < 0) {
    return absl::InvalidArgumentError(absl::StrCat(field, ": ", ms, ", expected at least 0"));
  }
  constexpr int64_t kNsPerMs = 1'000'000;
  return ms > Duration::max().count() / kNsPerMs ? Duration::max() : Duration(ms * kNsPerMs);
}

int64_t ToMs(Duration duration) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
}

}  // namespace attnd
