// SPDX-License-Identifier: Apache-2.0
//
// Keeps a session's lease alive: renews at a third of it, sooner again where the daemon could not
// be reached, and stops with the reason once the session is gone or another client has it.
//
// Thread-safe. Held by shared_ptr, since its timer refers to it weakly. Stop() returns only when no
// renewal is being started any more.
//
//   auto renewer = LeaseRenewer::Start(timers, lease, [](LeaseRenewer::Done done) { ...; });
//   absl::Status status = renewer->status();
#pragma once

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cpp/timers.h"
#include "kernels/base/mutex.h"

namespace attnd::client {

class LeaseRenewer : public std::enable_shared_from_this<LeaseRenewer> {
 public:
  using Done = std::function<void(absl::StatusOr<Duration>)>;  // the lease, as renewed
  // Starts one renewal and returns; Done runs later, or right away. `timeout` is the time to take.
  using Renew = std::function<void(Duration timeout, Done done)>;

  static std::shared_ptr<LeaseRenewer> Start(std::shared_ptr<Timers> timers, Duration lease,
                                             Renew renew);
  void Stop() ABSL_LOCKS_EXCLUDED(mu_);
  // OK while renewals go on, the last refusal once they do not.
  absl::Status status() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  LeaseRenewer(std::shared_ptr<Timers> timers, Duration lease, Renew renew);
  void Schedule(Duration delay);
  void OnTimer() ABSL_LOCKS_EXCLUDED(mu_);
  void OnRenewed(absl::StatusOr<Duration> lease) ABSL_LOCKS_EXCLUDED(mu_);

  const std::shared_ptr<Timers> timers_;  // shared with the connection
  const Renew renew_;
  mutable Mutex mu_;
  CondVar idle_;
  Duration lease_ ABSL_GUARDED_BY(mu_);
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  bool starting_ ABSL_GUARDED_BY(mu_) = false;  // renew_ is on some thread's stack
  absl::Status status_ ABSL_GUARDED_BY(mu_);
};

}  // namespace attnd::client
