// SPDX-License-Identifier: Apache-2.0
//
// Everything the daemon counts and times, under the names that DESIGN.md gives, prefix `attnd_`.
//
// One object, passed to whoever measures; families are created once and children are looked up once,
// so that recording is a few atomic operations. Labels are bounded: methods, codes, stages, phases,
// cache names; never an id. Thread-safe.
//
//   metrics.RecordRequest(Method::kAttend, absl::StatusCode::kOk, times, now, Phase::kDecode);
//   std::string text = metrics.Serialize();
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "kernels/base/clock.h"
#include "kv_cache/kv_cache.h"

namespace attnd {

enum class Method { kAttend, kFlashAttention };
// Decode: one query token an item; prefill: more; mixed: both in one request.
enum class Phase { kPrefill, kDecode, kMixed };

struct LaunchRecord {
  int64_t items = 0;
  int64_t query_tokens = 0;
  int64_t tokens_written = 0;
  int64_t requests = 0;  // that the items belong to
  Duration kernel{};
};

// A look at the daemon's state for the gauges, taken at each scrape.
struct GaugeSample {
  KvCacheStats cache;
  int64_t queued_items = 0;
  int64_t queued_tokens = 0;
  uint64_t staging_bytes_in_use = 0;
};

class Metrics {
 public:
  Metrics();
  ~Metrics();

  // `code` is that of the call; each item's own code is counted by RecordItem.
  struct RequestStages {
    Duration stage_in{}, queue{}, kernel{}, stage_out{};
  };
  void RecordRequest(Method method, absl::StatusCode code, Phase phase,
                     const RequestStages& stages);
  // A call that was refused before it had stages.
  void RecordRefused(Method method, absl::StatusCode code, Duration total);
  void RecordItem(absl::StatusCode code);
  void RecordLaunch(const LaunchRecord& launch);
  void RecordSessionResumed();
  void RecordLeaseExpired();

  // Called before each Serialize; set once, before serving.
  void SetSampler(std::function<GaugeSample()> sampler);
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
