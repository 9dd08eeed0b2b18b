// SPDX-License-Identifier: Apache-2.0
#include "server/observe/status_json.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>

#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace attnd {
namespace {

using Json = nlohmann::ordered_json;

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

// {"type": ..., "series": [{"labels": {...}, "value": n}, ...]}; a histogram's series have "count",
// "sum" and "buckets", pairs of upper bound (null: none) and count up to it.
Json ToJson(const prometheus::MetricFamily& family) {
  Json series = Json::array();
  for (const prometheus::ClientMetric& metric : family.metric) {
    Json one = {{"labels", Json::object()}};
    for (const auto& label : metric.label) one["labels"][label.name] = label.value;
    switch (family.type) {
      case prometheus::MetricType::Counter:
        one["value"] = metric.counter.value;
        break;
      case prometheus::MetricType::Histogram: {
        one["count"] = metric.histogram.sample_count;
        one["sum"] = metric.histogram.sample_sum;
        Json buckets = Json::array();
        for (const auto& bucket : metric.histogram.bucket) {
          const bool bounded = std::isfinite(bucket.upper_bound);
          buckets.push_back(Json::array(
              {bounded ? Json(bucket.upper_bound) : Json(nullptr), bucket.cumulative_count}));
        }
        one["buckets"] = std::move(buckets);
        break;
      }
      default:
        one["value"] = metric.gauge.value;
    }
    series.push_back(std::move(one));
  }
  return series;
}

Json MetricsOf(const std::vector<prometheus::MetricFamily>& families) {
  Json json = Json::object();
  for (const prometheus::MetricFamily& family : families) json[family.name] = ToJson(family);
  return json;
}

Json DevicesOf(const GaugeSample& sample) {
  Json json = Json::array();
  for (size_t i = 0; i < sample.devices.size(); ++i) {
    const DeviceSample& device = sample.devices[i];
    Json one = {{"name", device.name},
                {"backend", device.backend},
                {"memory_bytes", device.total_memory.value()},
                {"memory_used_bytes", nullptr},
                {"celsius", Json::object()},
                {"watts", nullptr}};
    if (device.used_memory) one["memory_used_bytes"] = device.used_memory->value();
    if (device.power_watts) one["watts"] = *device.power_watts;
    const auto add = [&](const char* sensor, const std::optional<double>& celsius) {
      if (celsius) one["celsius"][sensor] = *celsius;
    };
    add("edge", device.edge_celsius);
    add("junction", device.junction_celsius);
    add("memory", device.memory_celsius);
    if (i < sample.cache.pools.size()) {
      const PoolStats& pool = sample.cache.pools[i];
      one["pool_bytes"] = pool.bytes.value();
      one["pool_free_bytes"] = pool.free_bytes.value();
      one["sequences"] = pool.num_sequences;
      one["failure"] = pool.failure;
    }
    json.push_back(std::move(one));
  }
  return json;
}

Json TenantsOf(const GaugeSample& sample) {
  Json json = Json::array();
  const std::vector<TenantInfo>& tenants = sample.cache.tenants;
  for (size_t i = 0; i < tenants.size(); ++i) {
    const TenantInfo& info = tenants[i];
    if (info.name.empty() && tenants.size() > 1) continue;  // nobody, where callers are told apart
    uint64_t refused = info.refused_kv_bytes + info.refused_caches + info.refused_sessions +
                       info.refused_sequences;
    if (i < sample.tenant_queue_refusals.size()) refused += sample.tenant_queue_refusals[i];
    json.push_back({{"name", info.name},
                    {"kv_bytes", info.kv_bytes.value()},
                    {"kv_bytes_limit", info.limits.kv_bytes.value()},
                    {"caches", info.caches},
                    {"caches_limit", info.limits.caches},
                    {"sessions", info.sessions},
                    {"sessions_limit", info.limits.sessions},
                    {"sequences", info.sequences},
                    {"sequences_limit", info.limits.sequences},
                    {"refused", refused}});
  }
  return json;
}

Json CachesOf(const GaugeSample& sample) {
  Json json = Json::array();
  for (const CacheInfo& cache : sample.cache.caches) {
    const CacheGeometry& geometry = cache.geometry;
    json.push_back({{"tenant", cache.tenant_name},
                    {"name", cache.name},
                    {"layers", geometry.num_layers},
                    {"query_heads", geometry.num_query_heads},
                    {"kv_heads", geometry.num_kv_heads},
                    {"head_dim_k", geometry.head_dim_k},
                    {"head_dim_v", geometry.head_dim_v},
                    {"dtype", std::string(Name(geometry.kv_dtype))},
                    {"page_size_tokens", geometry.page_size_tokens},
                    {"page_bytes", cache.layout.page_bytes},
                    {"pages",
                     {{"used", cache.used.value()},
                      {"cached", cache.cached.value()},
                      {"free", (cache.free - cache.reserved).value()},
                      {"reserved", cache.reserved.value()}}},
                    {"quota_pages", cache.quota.value()},
                    {"slabs", cache.num_slabs},
                    {"sequences", cache.num_sequences}});
  }
  return json;
}

Json SessionsOf(std::vector<SessionInfo> sessions) {
  std::stable_sort(
      sessions.begin(), sessions.end(),
      [](const SessionInfo& a, const SessionInfo& b) { return a.num_sequences > b.num_sequences; });
  Json rows = Json::array();
  for (size_t i = 0; i < std::min(sessions.size(), kMaxListedSessions); ++i) {
    const SessionInfo& session = sessions[i];
    rows.push_back({{"tenant", session.tenant_name},
                    {"label", session.label},
                    {"sequences", session.num_sequences},
                    {"lease_s", Seconds(session.lease)},
                    {"lease_remaining_s", Seconds(session.lease_remaining)}});
  }
  return {{"total", sessions.size()}, {"listed", std::move(rows)}};
}

Json CapabilitiesOf(const Capabilities& capabilities) {
  Json dtypes = Json::array(), head_dims = Json::array(), features = Json::object();
  for (const auto& [q, kv] : capabilities.dtypes) {
    dtypes.push_back({{"q", std::string(Name(q))}, {"kv", std::string(Name(kv))}});
  }
  for (const auto& [k, v] : capabilities.head_dims) head_dims.push_back({{"k", k}, {"v", v}});
  for (const Feature feature : kAllFeatures) {
    features[std::string(Name(feature))] = capabilities.features.Has(feature);
  }
  return {{"backend", capabilities.backend},
          {"isa", capabilities.isa},
          {"dtypes", std::move(dtypes)},
          {"head_dims", std::move(head_dims)},
          {"any_head_dims", capabilities.any_head_dims},
          {"head_dim_multiple", capabilities.head_dim_multiple},
          {"max_head_dim", capabilities.max_head_dim},
          {"max_page_size_tokens",
           std::min<int64_t>(capabilities.max_page_size_tokens, kMaxPageSizeTokens)},
          {"features", std::move(features)}};
}

Json OptionsOf(absl::string_view text) {
  Json json = Json::array();
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(line, absl::MaxSplits(" = ", 1));
    json.push_back({{"name", std::string(parts.first)}, {"value", std::string(parts.second)}});
  }
  return json;
}

const char* StateOf(const StatusReport& report) {
  if (report.sample.draining) return "draining";
  return report.ready.ok() ? "serving" : "failed";
}

}  // namespace

std::string StatusJson(const StatusReport& report) {
  const Json json = {{"version", report.version},
                     {"uptime_s", Seconds(report.uptime)},
                     {"time_ms", report.unix_time_ms},
                     {"state", StateOf(report)},
                     {"why", std::string(report.ready.message())},
                     {"devices", DevicesOf(report.sample)},
                     {"tenants", TenantsOf(report.sample)},
                     {"caches", CachesOf(report.sample)},
                     {"sessions", SessionsOf(report.sessions)},
                     {"capabilities", CapabilitiesOf(report.capabilities)},
                     {"options", OptionsOf(report.options)},
                     {"metrics", MetricsOf(report.families)}};
  // Clients' text should be UTF-8; what is not is replaced, and never an error.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace attnd
