// SPDX-License-Identifier: Apache-2.0
#include "server/observe/catalog.h"

#include <initializer_list>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace attnd {
namespace {

using LabelNames = std::initializer_list<std::string_view>;

constexpr MetricSpec Make(MetricId id, const char* name, MetricType type, LabelNames labels,
                          const char* help) {
  MetricSpec spec{id, name, type, {}, labels.size(), help};
  size_t i = 0;
  for (const std::string_view label : labels) spec.label_names[i++] = label;
  return spec;
}
constexpr MetricSpec Counter(MetricId id, const char* name, LabelNames labels, const char* help) {
  return Make(id, name, MetricType::kCounter, labels, help);
}
constexpr MetricSpec Gauge(MetricId id, const char* name, LabelNames labels, const char* help) {
  return Make(id, name, MetricType::kGauge, labels, help);
}
constexpr MetricSpec Histogram(MetricId id, const char* name, LabelNames labels, const char* help) {
  return Make(id, name, MetricType::kHistogram, labels, help);
}

constexpr MetricSpec kCatalog[] = {
    Counter(MetricId::kAdmissionRefusedTotal, "attnd_admission_refused_total", {"reason"},
            "Calls that admission refused."),
    Histogram(MetricId::kBatchItems, "attnd_batch_items", {}, "Items of a launch."),
    Histogram(MetricId::kBatchRequests, "attnd_batch_requests", {},
              "Requests that share a launch."),
    Histogram(MetricId::kBatchTokens, "attnd_batch_tokens", {}, "Tokens of a launch."),
    Gauge(MetricId::kBuildInfo, "attnd_build_info", {"version"}, "The running version; always 1."),
    Counter(MetricId::kControlRequestsTotal, "attnd_control_requests_total", {"method", "code"},
            "Calls of every method but those that attend."),
    Gauge(MetricId::kDeviceInfo, "attnd_device_info", {"device", "name", "backend"},
          "The devices; always 1."),
    Gauge(MetricId::kDeviceMemoryBytes, "attnd_device_memory_bytes", {"device", "kind"},
          "Memory of each device."),
    Gauge(MetricId::kDevicePowerWatts, "attnd_device_power_watts", {"device"},
          "Power that each GPU draws."),
    Gauge(MetricId::kDeviceTemperatureCelsius, "attnd_device_temperature_celsius",
          {"device", "sensor"}, "Temperature of each GPU, by sensor."),
    Gauge(MetricId::kDevices, "attnd_devices", {"state"}, "Devices, by state."),
    Gauge(MetricId::kDraining, "attnd_draining", {}, "1 while the daemon drains, else 0."),
    Counter(MetricId::kItemsTotal, "attnd_items_total", {"code"},
            "Items of calls, by their own outcome."),
    Counter(MetricId::kKernelSecondsTotal, "attnd_kernel_seconds_total", {},
            "Time that the device spent in launches."),
    Gauge(MetricId::kLaunchedItems, "attnd_launched_items", {}, "Items launched and not yet done."),
    Counter(MetricId::kLaunchesTotal, "attnd_launches_total", {}, "Launches."),
    Counter(MetricId::kLeasesExpiredTotal, "attnd_leases_expired_total", {},
            "Sessions closed at the end of their lease."),
    Gauge(MetricId::kLimit, "attnd_limit", {"resource"}, "The configured limits."),
    Gauge(MetricId::kPages, "attnd_pages", {"tenant", "cache", "state"},
          "Pages of each cache's slabs, by state."),
    Counter(MetricId::kPagesCopiedTotal, "attnd_pages_copied_total", {}, "Pages copied on write."),
    Gauge(MetricId::kPoolBytes, "attnd_pool_bytes", {"device", "use"},
          "Bytes of each device's KV pool, by use."),
    Gauge(MetricId::kPoolFragmentationRatio, "attnd_pool_fragmentation_ratio", {},
          "Share of the pools' free bytes that lies outside the largest free run of each."),
    Counter(MetricId::kPrefixPagesEvictedTotal, "attnd_prefix_pages_evicted_total", {},
            "Published pages that no sequence held, evicted because pages ran out."),
    Counter(MetricId::kPrefixTokensMatchedTotal, "attnd_prefix_tokens_matched_total", {},
            "Of these, tokens whose keys and values were shared and not computed again."),
    Counter(MetricId::kPrefixTokensQueriedTotal, "attnd_prefix_tokens_queried_total", {},
            "Prompt tokens of sequences that were created with a prefix."),
    Gauge(MetricId::kQueueItems, "attnd_queue_items", {}, "Items submitted and not yet launched."),
    Gauge(MetricId::kQueueTokens, "attnd_queue_tokens", {},
          "Query tokens of the items submitted and not yet launched."),
    Counter(MetricId::kReloadsTotal, "attnd_reloads_total", {"what", "result"},
            "Reloads of certificates and of the tenants' file."),
    Histogram(MetricId::kRequestDurationSeconds, "attnd_request_duration_seconds",
              {"method", "code"}, "From a call's arrival to its answer's hand-over to gRPC."),
    Counter(MetricId::kRequestsTotal, "attnd_requests_total", {"method", "code"}, "Calls."),
    Gauge(MetricId::kSequences, "attnd_sequences", {"tenant"}, "Sequences."),
    Gauge(MetricId::kSessions, "attnd_sessions", {"tenant"}, "Open sessions."),
    Counter(MetricId::kSessionsResumedTotal, "attnd_sessions_resumed_total", {},
            "Sessions resumed."),
    Counter(MetricId::kSlabsMovedTotal, "attnd_slabs_moved_total", {},
            "Slabs given back to the pool for another cache."),
    Histogram(MetricId::kStageDurationSeconds, "attnd_stage_duration_seconds", {"stage", "phase"},
              "The stages that a call's duration is cut into."),
    Gauge(MetricId::kStagingBytes, "attnd_staging_bytes", {},
          "Bytes of staging memory that requests hold."),
    Gauge(MetricId::kTenantPoolBytes, "attnd_tenant_pool_bytes", {"tenant"},
          "Bytes of the KV pool that a tenant's pages take."),
    Gauge(MetricId::kTenantPoolBytesLimit, "attnd_tenant_pool_bytes_limit", {"tenant"},
          "The most bytes of the KV pool that a tenant may take."),
    Counter(MetricId::kTenantRefusedTotal, "attnd_tenant_refused_total", {"tenant", "reason"},
            "What a tenant was refused because of its own limits."),
    Counter(MetricId::kTenantTokensAttendedTotal, "attnd_tenant_tokens_attended_total", {"tenant"},
            "Query tokens attended, by tenant."),
    Gauge(MetricId::kTlsCertificateExpiryTimestampSeconds,
          "attnd_tls_certificate_expiry_timestamp_seconds", {},
          "When the server's certificate expires, in seconds since 1970."),
    Counter(MetricId::kTokensAttendedTotal, "attnd_tokens_attended_total", {},
            "Query tokens attended."),
    Counter(MetricId::kTokensWrittenTotal, "attnd_tokens_written_total", {},
            "Tokens whose keys and values were stored."),
    Counter(MetricId::kUnauthenticatedTotal, "attnd_unauthenticated_total", {},
            "Calls without a token, or with one that is not known."),
    Counter(MetricId::kProcessCpuSecondsTotal, "process_cpu_seconds_total", {},
            "User and system time of the daemon."),
    Gauge(MetricId::kProcessResidentMemoryBytes, "process_resident_memory_bytes", {},
          "Resident memory of the daemon."),
};

// SpecOf finds a row by its place.
constexpr bool RowsAreInOrder() {
  for (size_t i = 0; i < std::size(kCatalog); ++i) {
    if (kCatalog[i].id != static_cast<MetricId>(i)) return false;
    if (i > 0 && std::string_view(kCatalog[i - 1].name) >= kCatalog[i].name) return false;
  }
  return true;
}
static_assert(RowsAreInOrder(), "a row a MetricId, sorted by name");

std::string Quoted(std::string_view text) { return nlohmann::json(text).dump(); }

}  // namespace

std::string_view Name(MetricType type) {
  switch (type) {
    case MetricType::kCounter:
      return "counter";
    case MetricType::kGauge:
      return "gauge";
    case MetricType::kHistogram:
      return "histogram";
  }
  return "";
}

std::span<const MetricSpec> MetricCatalog() { return kCatalog; }

const MetricSpec& SpecOf(MetricId id) { return kCatalog[static_cast<size_t>(id)]; }

std::string MetricCatalogJson() {
  std::string text = "[";
  for (const MetricSpec& spec : kCatalog) {
    const auto append_quoted = [](std::string* out, std::string_view label) {
      out->append(Quoted(label));
    };
    absl::StrAppend(&text, spec.id == kCatalog[0].id ? "\n" : ",\n",
                    "  {\"name\": ", Quoted(spec.name), ", \"type\": ", Quoted(Name(spec.type)),
                    ", \"labels\": [", absl::StrJoin(spec.labels(), ", ", append_quoted),
                    "], \"help\": ", Quoted(spec.help), "}");
  }
  return text + "\n]\n";
}

}  // namespace attnd
