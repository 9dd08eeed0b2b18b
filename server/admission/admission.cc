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
  QueueCost cost{
      .tenant = request.tenant, .requests = 1, .items = static_cast<int64_t>(request.items.size())};
  for (const WorkItem& item : request.items) cost.tokens += item.num_tokens();
  return cost;
}

void Add(QueueCost& sum, const QueueCost& cost) {
  sum.requests += cost.requests;
  sum.items += cost.items;
  sum.tokens += cost.tokens;
}

void Subtract(QueueCost& sum, const QueueCost& cost) {
  sum.requests -= cost.requests;
  sum.items -= cost.items;
  sum.tokens -= cost.tokens;
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
  TenantShare& share = ShareOf(cost.tenant);
  absl::Status room = CheckRoom(cost, share.held, share.limits, "the tenant's share of the queue");
  if (!room.ok()) {
    ++share.refused;
    return room;
  }
  ATTND_RETURN_IF_ERROR(CheckRoom(cost, held_,
                                  {.requests = options_.max_queued_requests,
                                   .items = options_.max_queued_items,
                                   .tokens = options_.max_queued_tokens},
                                  "the queue"));
  Add(share.held, cost);
  Add(held_, cost);
  ++submitting_;
  return absl::OkStatus();
}

absl::Status Admission::CheckRoom(const QueueCost& cost, const QueueCost& held,
                                  const TenantLimits& limits, const char* whose) {
  const auto excess = [](int64_t sum, int64_t limit) { return limit == 0 ? 0 : sum - limit; };
  const QueueCost over{.requests = excess(held.requests + cost.requests, limits.requests),
                       .items = excess(held.items + cost.items, limits.items),
                       .tokens = excess(held.tokens + cost.tokens, limits.tokens)};
  const bool full = over.requests > 0 || over.items > 0 || over.tokens > 0;
  if (!full || held.requests == 0) return absl::OkStatus();
  metrics_.RecordRefusal(Refusal::kQueueFull);
  // No more can drain than is there.
  const QueueCost to_drain{.requests = std::min(over.requests, held.requests),
                           .items = std::min(over.items, held.items),
                           .tokens = std::min(over.tokens, held.tokens)};
  const Duration delay = drain_rate_.TimeToDrain(to_drain, clock_.Now());
  return AttachErrorDetail(
      absl::UnavailableError(absl::StrFormat(
          "%s is full: %d of %d requests, %d of %d items, %d of %d tokens; retry in %d ms", whose,
          held.requests, limits.requests, held.items, limits.items, held.tokens, limits.tokens,
          std::chrono::ceil<std::chrono::milliseconds>(delay).count())),
      {.reason = ErrorReason::kQueueFull, .retry_delay = delay});
}

Admission::TenantShare& Admission::ShareOf(TenantIndex tenant) {
  if (tenant.value() >= shares_.size()) shares_.resize(tenant.value() + 1);
  return shares_[tenant.value()];
}

void Admission::SetTenantLimits(TenantIndex tenant, const TenantLimits& limits) {
  MutexLock lock(mu_);
  ShareOf(tenant).limits = limits;
}

uint64_t Admission::refused(TenantIndex tenant) const {
  MutexLock lock(mu_);
  return tenant.value() < shares_.size() ? shares_[tenant.value()].refused : 0;
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
  Subtract(held_, cost);
  Subtract(ShareOf(cost.tenant).held, cost);
  drain_rate_.Add(cost, now);
  if (held_.requests == 0) changed_.SignalAll();  // with the lock: the destructor may be waiting
}

}  // namespace attnd
