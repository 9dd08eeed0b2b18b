// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/internal/lease_renewer.h"

#include <algorithm>
#include <utility>

namespace attnd::client {
namespace {

// Room for two more tries before the lease ends.
Duration Period(Duration lease) { return lease / 3; }
// After a failure: often enough to catch a daemon that comes back, seldom enough not to hammer it.
Duration RetryPeriod(Duration lease) {
  return std::max<Duration>(lease / 12, std::chrono::milliseconds(10));
}

// A daemon that is away may come back; any other refusal is for good.
bool IsPassing(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsCancelled(status);
}

}  // namespace

LeaseRenewer::LeaseRenewer(std::shared_ptr<Timers> timers, Duration lease, Renew renew)
    : timers_(std::move(timers)), renew_(std::move(renew)), lease_(lease) {}

std::shared_ptr<LeaseRenewer> LeaseRenewer::Start(std::shared_ptr<Timers> timers, Duration lease,
                                                  Renew renew) {
  std::shared_ptr<LeaseRenewer> renewer(
      new LeaseRenewer(std::move(timers), lease, std::move(renew)));
  renewer->Schedule(Period(lease));
  return renewer;
}

void LeaseRenewer::Schedule(Duration delay) {
  timers_->RunAt(timers_->Now() + delay, [weak = weak_from_this()] {
    if (auto self = weak.lock()) self->OnTimer();
  });
}

void LeaseRenewer::OnTimer() {
  Duration timeout;
  {
    MutexLock lock(mu_);
    if (stopped_) return;
    starting_ = true;
    timeout = Period(lease_);
  }
  renew_(timeout, [weak = weak_from_this()](absl::StatusOr<Duration> lease) {
    if (auto self = weak.lock()) self->OnRenewed(std::move(lease));
  });
  MutexLock lock(mu_);
  starting_ = false;
  idle_.SignalAll();
}

void LeaseRenewer::OnRenewed(absl::StatusOr<Duration> lease) {
  Duration delay;
  {
    MutexLock lock(mu_);
    if (stopped_) return;
    if (lease.ok()) {
      lease_ = *lease;
      delay = Period(lease_);
    } else if (IsPassing(lease.status())) {
      delay = RetryPeriod(lease_);
    } else {
      status_ = lease.status();
      stopped_ = true;
      return;
    }
  }
  Schedule(delay);
}

void LeaseRenewer::Stop() {
  MutexLock lock(mu_);
  stopped_ = true;
  while (starting_) idle_.Wait(mu_);
}

absl::Status LeaseRenewer::status() const {
  MutexLock lock(mu_);
  return status_;
}

}  // namespace attnd::client
