// SPDX-License-Identifier: Apache-2.0
#include "server/scheduler/scheduler.h"

#include <atomic>
#include <utility>

#include "server/scheduler/scheduler_loop.h"

namespace attnd {

class Scheduler::Impl {
 public:
  Impl(KvCache& cache, std::span<Engine* const> engines, Metrics& metrics, const Clock& clock,
       const Options& options)
      : loop(cache, engines, metrics, clock, options) {}

  std::atomic<uint64_t> last_id = 0;
  SchedulerLoop loop;
};

Scheduler::Scheduler(KvCache& cache, std::span<Engine* const> engines, Metrics& metrics,
                     const Clock& clock, const Options& options)
    : impl_(std::make_unique<Impl>(cache, engines, metrics, clock, options)) {}

Scheduler::~Scheduler() = default;

RequestId Scheduler::Submit(std::unique_ptr<Request> request) {
  const auto id =
      static_cast<RequestId>(impl_->last_id.fetch_add(1, std::memory_order_relaxed) + 1);
  impl_->loop.Post(SchedulerLoop::Submitted{id, std::move(request)});
  return id;
}

void Scheduler::Cancel(RequestId id) { impl_->loop.Post(SchedulerLoop::Cancelled{id}); }

void Scheduler::WhenQuiet(SequenceId sequence, absl::AnyInvocable<void()> operation) {
  impl_->loop.Post(SchedulerLoop::WhenQuiet{sequence, std::move(operation)});
}

void Scheduler::EvictSession(SessionId session, absl::AnyInvocable<void()> operation) {
  impl_->loop.Post(SchedulerLoop::EvictSession{session, std::move(operation)});
}

void Scheduler::WhenIdle(absl::AnyInvocable<void()> idle) {
  impl_->loop.Post(SchedulerLoop::WhenIdle{std::move(idle)});
}

Scheduler::Stats Scheduler::stats() const { return impl_->loop.stats(); }

absl::Status Scheduler::device_status() const { return impl_->loop.device_status(); }

}  // namespace attnd
