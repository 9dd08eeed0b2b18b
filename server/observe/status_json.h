// SPDX-License-Identifier: Apache-2.0
//
// What the status page shows, as JSON: /api/status of the metrics port. docs/status_page.md has its
// fields.
//
// The figures under "metrics" are the families of the scrape, so that the page and Prometheus
// cannot disagree; the rest is what metrics have no room for: caches, sessions, devices,
// capabilities, options. No token, no id, no client state is in it; names and labels are clients'
// text, and it is for the reader to show them as such. Pure, safe from any thread.
//
//   std::string json = StatusJson(report);
#pragma once

#include <prometheus/metric_family.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/attention/capabilities.h"
#include "kernels/base/clock.h"
#include "kv_cache/kv_cache.h"
#include "server/observe/gauges.h"

namespace attnd {

struct StatusReport {
  std::string version;
  Duration uptime{};
  int64_t unix_time_ms = 0;
  absl::Status ready;  // of the devices, as /healthz says it
  Capabilities capabilities;
  std::string options;  // one "name = value" a line
  GaugeSample sample;
  std::vector<SessionInfo> sessions;
  std::vector<prometheus::MetricFamily> families;
};

// The sessions that it lists at most, those that hold the most sequences first.
inline constexpr size_t kMaxListedSessions = 200;

std::string StatusJson(const StatusReport& report);

}  // namespace attnd
