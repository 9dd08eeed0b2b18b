// SPDX-License-Identifier: Apache-2.0
//
// The daemon's state as gauges, and the counters that its parts keep themselves: computed from a
// sample at each scrape, so that nothing has to be kept up to date in between and a closed cache
// leaves no series behind. Names, labels and help are those of catalog.h.
//
// Sums mean something: the states of attnd_pages add up to a cache's pages, attnd_pool_bytes to the
// pools, attnd_devices to the devices, attnd_sessions and attnd_sequences to all there are.
// Pure but for the process's own numbers; safe from any thread.
//
//   std::vector<prometheus::MetricFamily> families = CollectGauges(sample);
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kv_cache/kv_cache.h"

namespace prometheus {
struct MetricFamily;
}

namespace attnd {

// What a device says of itself; see device_telemetry.h. What it does not tell gives no series.
struct DeviceSample {
  std::string name{};
  std::string backend{};
  Bytes total_memory{};
  std::optional<Bytes> used_memory{};
  std::optional<double> edge_celsius{}, junction_celsius{}, memory_celsius{};
  std::optional<double> power_watts{};
};

// The options that bound what the gauges show.
struct LimitSample {
  int64_t queued_requests = 0, queued_items = 0, queued_tokens = 0;
  Bytes staging_bytes{};
  int64_t sessions = 0, sequences = 0;
};

// A look at the daemon's state, taken at each scrape.
struct GaugeSample {
  KvCacheStats cache;
  int64_t queued_items = 0;
  int64_t queued_tokens = 0;
  int64_t launched_items = 0;
  uint64_t staging_bytes_in_use = 0;
  bool draining = false;
  std::optional<int64_t> tls_certificate_expiry_s{};  // since 1970; none without TLS
  LimitSample limits{};
  std::vector<DeviceSample> devices{};  // by DeviceIndex
  // By TenantIndex, as cache.tenants; where they are shorter, 0.
  std::vector<uint64_t> tenant_tokens_attended{};  // filled by Metrics
  std::vector<uint64_t> tenant_queue_refusals{};
};

std::vector<prometheus::MetricFamily> CollectGauges(const GaugeSample& sample);
// Of this process alone, for a daemon that has no sampler yet.
std::vector<prometheus::MetricFamily> CollectProcess();

}  // namespace attnd
