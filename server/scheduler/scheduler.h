// SPDX-License-Identifier: Apache-2.0
//
// Turns admitted requests into launches. One thread owns the queue and all scheduling state: it
// asks the batch policy what to launch next, pins pages, hands the batch to the engine, and
// finishes what is done. Items of different requests and clients share a launch; items of one
// sequence keep the order of their admission, and operations that need a quiet sequence wait for it
// in the same queue.
//
// Thread safety: all public methods from any thread. Callbacks run on the scheduler's thread and
// must not block.
//
//   RequestId id = scheduler.Submit(std::move(request));
//   scheduler.Cancel(id);                               // before the launch: CANCELLED, nothing
//   written scheduler.WhenQuiet(sequence, [&] { cache.Fork(...); });
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "kernels/base/clock.h"
#include "kv_cache/kv_cache.h"
#include "server/engine/engine.h"
#include "server/observe/metrics.h"
#include "server/scheduler/request.h"

namespace attnd {

class Scheduler {
 public:
  struct Options {
    int64_t max_batch_items = 256;
    int64_t max_batch_tokens = 8192;  // query tokens; a larger item is launched alone
    // How long the oldest item may wait for others to share its launch. Zero: never waits; batches
    // then form by themselves while the device is busy.
    Duration max_linger{};
    // Launches that each asynchronous device may have queued at a time: the next batch is prepared
    // while one runs. A synchronous device always has one.
    int64_t max_launches_in_flight = 2;
    Duration lease_check_interval = std::chrono::seconds(1);  // zero: leases never end
    // How long the thread may spin for the next message before it sleeps; it does so only where the
    // last idle gap was that short.
    Duration max_spin = std::chrono::microseconds(20);
  };

  // One engine for each of the cache's devices. Borrows everything; see server.h for the order of
  // destruction.
  Scheduler(KvCache& cache, std::span<Engine* const> engines, Metrics& metrics, const Clock& clock,
            const Options& options);
  // Cancels what is queued, waits for what is launched and runs every callback that is still due.
  ~Scheduler();

  // Items whose outcome is finished already are not executed; a request without any other completes
  // through `done` all the same, which may run before Submit returns. `request->times.admitted` is
  // set.
  RequestId Submit(std::unique_ptr<Request> request);

  // Items not yet launched end with CANCELLED; launched ones run to their end. Unknown and finished
  // requests are ignored.
  void Cancel(RequestId id);

  // Runs `operation` once every item of `sequence` that was submitted before has finished, and
  // before any that is submitted after.
  void WhenQuiet(SequenceId sequence, absl::AnyInvocable<void()> operation);

  // Ends queued items of `session` with ABORTED (superseded), waits for the launched ones, then
  // runs `operation`. Items of the session that are submitted meanwhile are ABORTED too. For
  // resuming and closing sessions.
  void EvictSession(SessionId session, absl::AnyInvocable<void()> operation);

  // Runs `idle` once nothing is queued or launched. Admission must have stopped for it to come.
  void WhenIdle(absl::AnyInvocable<void()> idle);

  struct Stats {
    int64_t queued_items = 0;  // submitted and not launched
    int64_t queued_tokens = 0;
    int64_t launched_items = 0;  // and not finished
    uint64_t launches_total = 0;
    uint64_t items_total = 0;  // launched
  };
  Stats stats() const;

  // OK, or INTERNAL once a device has failed: what was launched on it ends with this status, items
  // of its sequences with DATA_LOSS (KvCache::FenceDevice), and health is NOT_SERVING until the
  // daemon restarts. What needs only other devices goes on; dense items end with it once all
  // failed.
  absl::Status device_status() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace attnd
