// SPDX-License-Identifier: Apache-2.0
//
// Decides at the door whether a request can be queued: bounded requests, items and tokens, and the
// pages that its writes will need. A tenant's share of the queue is bounded, too. What is refused
// here has cost nothing and changed nothing.
//
// Thread-safe.
//
//   absl::StatusOr<RequestId> id = admission.Admit(std::move(request));
//   // UNAVAILABLE carries a retry delay (kv_cache/error_detail.h); the request's `done` never runs
//   then
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/base/clock.h"
#include "kernels/base/mutex.h"
#include "kv_cache/kv_cache.h"
#include "server/admission/drain_rate.h"
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

  // Of the queue, what one tenant's requests may hold at most; 0: no limit but the daemon's.
  struct TenantLimits {
    int64_t requests = 0, items = 0, tokens = 0;
  };

  // Borrows all of them.
  Admission(KvCache& cache, Scheduler& scheduler, Metrics& metrics, const Clock& clock,
            const Options& options);

  // Waits until every admitted request is destroyed: their tickets come back here. The scheduler
  // must still run.
  ~Admission();

  // Takes a share of the queue, reserves pages for each write and submits. An item whose pages
  // cannot be had, or whose outcome is finished already, is not refused here: it keeps its status,
  // which is RESOURCE_EXHAUSTED in the first case, and the others go on. `done` runs on the
  // scheduler's thread even where no item is left to execute. A request larger than a limit is
  // taken where nothing else is queued. `request->times.received` must be set.
  //
  // UNAVAILABLE where the queue, or the tenant's share of it, is full (with a retry delay) or the
  // daemon drains;
  // DEADLINE_EXCEEDED where the deadline has passed. `done` never runs then.
  absl::StatusOr<RequestId> Admit(std::unique_ptr<Request> request) ABSL_LOCKS_EXCLUDED(mu_);

  // From now on; what is held already stays.
  void SetTenantLimits(TenantIndex tenant, const TenantLimits& limits) ABSL_LOCKS_EXCLUDED(mu_);
  // Requests that the tenant's share refused since the daemon's start.
  uint64_t refused(TenantIndex tenant) const ABSL_LOCKS_EXCLUDED(mu_);

  // From now on Admit refuses, and what it admitted before has been submitted: a WhenIdle that
  // follows comes after all of it.
  void StartDraining() ABSL_LOCKS_EXCLUDED(mu_);
  bool draining() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  void Return(const QueueCost& cost) override ABSL_LOCKS_EXCLUDED(mu_);

  struct TenantShare {
    TenantLimits limits;
    QueueCost held;
    uint64_t refused = 0;
  };

  // OK with the share taken, or why not.
  absl::Status Take(const QueueCost& cost) ABSL_LOCKS_EXCLUDED(mu_);
  // OK where `cost` fits beside what is held. `whose` names the queue in the message.
  absl::Status CheckRoom(const QueueCost& cost, const QueueCost& held, const TenantLimits& limits,
                         const char* whose) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  TenantShare& ShareOf(TenantIndex tenant) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ReservePages(Request& request);

  KvCache& cache_;
  Scheduler& scheduler_;
  Metrics& metrics_;
  const Clock& clock_;
  const Options options_;
  mutable Mutex mu_;
  CondVar changed_;
  QueueCost held_ ABSL_GUARDED_BY(mu_);
  std::vector<TenantShare> shares_ ABSL_GUARDED_BY(mu_);  // by TenantIndex
  DrainRate drain_rate_ ABSL_GUARDED_BY(mu_);
  int64_t submitting_ ABSL_GUARDED_BY(mu_) = 0;  // calls of Admit between Take and Submit
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace attnd
