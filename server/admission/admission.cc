// SPDX-License-Identifier: Apache-2.0
#include "server/admission/admission.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"
#include "kv_cache/error_detail.h"

namespace attnd {
namespace {

QueueCost CostOf(const Request& request) {
  QueueCost cost{.requests = 1, .items = static_cast<int64_t>(request.items.size())};
  for (const WorkItem& item : request.items) cost.tokens += item.num_tokens();
  return cost;
}

}  // namespace

Admission::Admission(KvCache& cache, Scheduler& scheduler, Metrics& metrics, const Clock& clock,
                     const Options& options)
    : cache_(cache), scheduler_(scheduler), metrics_(metrics), clock_(clock), options_(options) {}

Admission::~Admission() {
  MutexLock lock(mu_);
  while (held_.requests > 0) changed_.Wait(mu_);
}

absl::StatusOr<RequestId> Admission::Admit(std::unique_ptr<Request> request) {
  if (clock_.Now() >= request->deadline) {
    metrics_.RecordRefusal(Refusal::kDeadline);
    return absl::DeadlineExceededError("the deadline had passed on arrival; nothing was written");
  }
  const QueueCost cost = CostOf(*request);
  ATTND_RETURN_IF_ERROR(Take(cost));
  request->ticket = AdmissionTicket(this, cost);
  ReservePages(*request);
  request->times.admitted = clock_.Now();
  const RequestId id = scheduler_.Submit(std::move(request));

  MutexLock lock(mu_);
  if (--submitting_ == 0 && draining_) changed_.SignalAll();
  return id;
}

absl::Status Admission::Take(const QueueCost& cost) {
  MutexLock lock(mu_);
  if (draining_) {
    metrics_.RecordRefusal(Refusal::kDraining);
    return AttachErrorDetail(
        absl::UnavailableError("the daemon drains and takes no new work; ask another"),
        {.reason = ErrorReason::kDraining, .retry_delay = DrainRate::kMaxDelay});
  }
  const QueueCost excess{.requests = held_.requests + cost.requests - options_.max_queued_requests,
                         .items = held_.items + cost.items - options_.max_queued_items,
                         .tokens = held_.tokens + cost.tokens - options_.max_queued_tokens};
  const bool over = excess.requests > 0 || excess.items > 0 || excess.tokens > 0;
  if (over && held_.requests > 0) {
    metrics_.RecordRefusal(Refusal::kQueueFull);
    // No more can drain than is there.
    const QueueCost to_drain{.requests = std::min(excess.requests, held_.requests),
                             .items = std::min(excess.items, held_.items),
                             .tokens = std::min(excess.tokens, held_.tokens)};
    const Duration delay = drain_rate_.TimeToDrain(to_drain, clock_.Now());
    return AttachErrorDetail(
        absl::UnavailableError(absl::StrFormat(
            "the queue is full: %d of %d requests, %d of %d items, %d of %d tokens; retry in %d ms",
            held_.requests, options_.max_queued_requests, held_.items, options_.max_queued_items,
            held_.tokens, options_.max_queued_tokens,
            std::chrono::ceil<std::chrono::milliseconds>(delay).count())),
        {.reason = ErrorReason::kQueueFull, .retry_delay = delay});
  }
  held_.requests += cost.requests;
  held_.items += cost.items;
  held_.tokens += cost.tokens;
  ++submitting_;
  return absl::OkStatus();
}

void Admission::ReservePages(Request& request) {
  request.outcomes.resize(request.items.size());
  request.reservations.resize(request.items.size());
  for (size_t i = 0; i < request.items.size(); ++i) {
    const WorkItem& item = request.items[i];
    // Reads need no pages; whether their sequence exists is seen when they are pinned.
    if (!item.access || !item.access->write || request.outcomes[i].finished()) continue;
    absl::StatusOr<PageReservation> reservation = cache_.Reserve(*item.access);
    if (reservation.ok()) {
      request.reservations[i] = *std::move(reservation);
    } else {
      request.outcomes[i].status = std::move(reservation).status();
    }
  }
}

void Admission::StartDraining() {
  MutexLock lock(mu_);
  draining_ = true;
  while (submitting_ > 0) changed_.Wait(mu_);
}

bool Admission::draining() const {
  MutexLock lock(mu_);
  return draining_;
}

void Admission::Return(const QueueCost& cost) {
  const MonotonicTime now = clock_.Now();
  MutexLock lock(mu_);
  held_.requests -= cost.requests;
  held_.items -= cost.items;
  held_.tokens -= cost.tokens;
  drain_rate_.Add(cost, now);
  if (held_.requests == 0) changed_.SignalAll();  // with the lock: the destructor may be waiting
}

}  // namespace attnd
