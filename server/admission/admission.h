// SPDX-License-Identifier: Apache-2.0
//
// Decides at the door whether a request can be queued: bounded requests, items and tokens, and the
// pages that its writes will need. What is refused here has cost nothing and changed nothing.
//
// Thread-safe.
//
//   absl::StatusOr<RequestId> id = admission.Admit(std::move(request));
//   // UNAVAILABLE carries a retry delay (kv_cache/error_detail.h); the request's `done` never runs then
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/base/clock.h"
#include "kernels/base/mutex.h"
#include "kv_cache/kv_cache.h"
#include "server/observe/metrics.h"
#include "server/scheduler/request.h"
#include "server/scheduler/scheduler.h"

namespace attnd {

class Admission final : private TicketIssuer {
 public:
  struct Options {
    int64_t max_queued_requests = 4096;
    int64_t max_queued_items = 65536;
    int64_t max_queued_tokens = 1 << 20;  // query tokens
  };

  Admission(KvCache& cache, Scheduler& scheduler, Metrics& metrics, const Clock& clock,
            const Options& options);

  // Takes a share of the queue, reserves pages for each write and submits. An item whose pages cannot
  // be had is not refused here: its outcome will be RESOURCE_EXHAUSTED and the others go on.
  // UNAVAILABLE where the queue is full or the daemon drains; DEADLINE_EXCEEDED where the deadline
  // has passed. `request->times.received` must be set.
  absl::StatusOr<RequestId> Admit(std::unique_ptr<Request> request);

  // From now on Admit refuses.
  void StartDraining() ABSL_LOCKS_EXCLUDED(mu_);
  bool draining() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  void Return(const QueueCost& cost) override ABSL_LOCKS_EXCLUDED(mu_);

  KvCache& cache_;
  Scheduler& scheduler_;
  Metrics& metrics_;
  const Clock& clock_;
  const Options options_;
  mutable Mutex mu_;
  QueueCost held_ ABSL_GUARDED_BY(mu_);
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace attnd
