// SPDX-License-Identifier: Apache-2.0
//
// Everything the daemon counts and times, under the names of catalog.h, and the gauges of gauges.h,
// taken at each scrape.
//
// A call makes one observation of attnd_request_duration_seconds and four of
// attnd_stage_duration_seconds; over all labels the two sums are the same. A launch makes one of
// each attnd_batch_*.
//
// One object, passed to whoever measures; families are created once and children are looked up
// once, so that recording is a few atomic operations. Thread-safe.
//
//   metrics.RecordRequest(Method::kAttend, absl::StatusCode::kOk, Phase::kDecode, stages);
//   std::string text = metrics.Serialize();
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "kernels/base/clock.h"
#include "kv_cache/access.h"
#include "server/observe/gauges.h"

namespace attnd {

enum class Method { kAttend, kFlashAttention };
// Decode: one query token an item; prefill: more; mixed: both in one request.
enum class Phase { kPrefill, kDecode, kMixed };

struct LaunchRecord {
  int64_t items = 0;
  int64_t tokens = 0;        // rows of all items, what batches are limited by
  int64_t query_tokens = 0;  // rows that attended
  int64_t tokens_written =
      0;                 // rows whose keys and values were stored; none where a step was repeated
  int64_t requests = 0;  // that the items belong to
  // The device's time with this launch. Launches queued behind each other do not count time twice.
  Duration kernel{};
};

// What is read again when its file changes.
enum class Reload { kTls, kTenants };

// Why admission took nothing.
enum class Refusal { kQueueFull, kDraining, kDeadline };

class Metrics {
 public:
  Metrics();
  ~Metrics();

  // `code` is that of the call; each item's own code is counted by RecordItem.
  struct RequestStages {
    Duration stage_in{}, queue{}, kernel{}, stage_out{};
  };
  // A call's duration is the sum of its stages.
  void RecordRequest(Method method, absl::StatusCode code, Phase phase,
                     const RequestStages& stages);
  // A call that was refused before it had stages: all its time is stage_in, its phase "none".
  void RecordRefused(Method method, absl::StatusCode code, Duration total);
  void RecordItem(absl::StatusCode code);
  void RecordRefusal(Refusal reason);
  void RecordLaunch(const LaunchRecord& launch);
  // The query tokens of a launch that are a tenant's.
  void RecordTenantTokens(TenantIndex tenant, int64_t query_tokens);
  // A call of any method but those that attend, by its name in the proto.
  void RecordControl(std::string_view method, absl::StatusCode code);
  void RecordReload(Reload what, bool ok);
  void RecordSessionResumed();
  // A call without a good token.
  void RecordUnauthenticated();
  void RecordLeaseExpired();

  // Called before each Serialize; set once, before serving.
  void SetSampler(std::function<GaugeSample()> sampler);
  // What there is now, for Serialize and the status page.
  std::vector<prometheus::MetricFamily> Collect();
  // The same, of a sample that the caller has.
  std::vector<prometheus::MetricFamily> Collect(GaugeSample sample);
  // The text exposition format of Prometheus.
  std::string Serialize();

  struct Totals {
    uint64_t requests = 0, items = 0, launches = 0, tokens_written = 0, tokens_attended = 0;
    double kernel_seconds = 0;
  };
  Totals totals() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace attnd
