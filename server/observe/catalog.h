// SPDX-License-Identifier: Apache-2.0
//
// Every metric of the daemon, once: its name, type, labels and help. What serves them takes them
// from here, and so do the dashboards and alerts, by way of `attnd --print_metrics`.
//
// Labels are bounded: methods, codes, devices, at most kMaxTenantSeries tenants, the names of live
// caches; never an id. Histograms have the label `le` besides. Constants, safe from any thread.
//
//   const MetricSpec& pages = SpecOf(MetricId::kPages);
//   pages.name;      // "attnd_pages"
//   pages.labels();  // "tenant", "cache", "state"
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace attnd {

// By name.
enum class MetricId {
  kAdmissionRefusedTotal,
  kBatchItems,
  kBatchRequests,
  kBatchTokens,
  kBuildInfo,
  kControlRequestsTotal,
  kDeviceInfo,
  kDeviceMemoryBytes,
  kDevicePowerWatts,
  kDeviceTemperatureCelsius,
  kDevices,
  kDraining,
  kItemsTotal,
  kKernelSecondsTotal,
  kLaunchedItems,
  kLaunchesTotal,
  kLeasesExpiredTotal,
  kLimit,
  kPages,
  kPagesCopiedTotal,
  kPoolBytes,
  kPoolFragmentationRatio,
  kPrefixPagesEvictedTotal,
  kPrefixTokensMatchedTotal,
  kPrefixTokensQueriedTotal,
  kQueueItems,
  kQueueTokens,
  kReloadsTotal,
  kRequestDurationSeconds,
  kRequestsTotal,
  kSequences,
  kSessions,
  kSessionsResumedTotal,
  kSlabsMovedTotal,
  kStageDurationSeconds,
  kStagingBytes,
  kTenantPoolBytes,
  kTenantPoolBytesLimit,
  kTenantRefusedTotal,
  kTenantTokensAttendedTotal,
  kTlsCertificateExpiryTimestampSeconds,
  kTokensAttendedTotal,
  kTokensWrittenTotal,
  kUnauthenticatedTotal,
  kProcessCpuSecondsTotal,
  kProcessResidentMemoryBytes,
};

enum class MetricType { kCounter, kGauge, kHistogram };
std::string_view Name(MetricType type);  // "counter"

inline constexpr size_t kMaxMetricLabels = 3;

struct MetricSpec {
  MetricId id;
  const char* name;
  MetricType type;
  std::array<std::string_view, kMaxMetricLabels> label_names;  // the first num_labels
  size_t num_labels;
  const char* help;

  constexpr std::span<const std::string_view> labels() const {
    return std::span(label_names).first(num_labels);
  }
};

// Sorted by name.
std::span<const MetricSpec> MetricCatalog();
const MetricSpec& SpecOf(MetricId id);

// As JSON: [{"name": "attnd_pages", "type": "gauge", "labels": ["tenant", ...], "help": "..."},
// ...], a metric a line.
std::string MetricCatalogJson();

// What a tenant's own series are limited to; the figures of those beyond are summed up under
// kOtherTenants, which no tenant can be called.
inline constexpr size_t kMaxTenantSeries = 64;
inline constexpr char kOtherTenants[] = "(others)";

}  // namespace attnd
