// SPDX-License-Identifier: Apache-2.0
//
// The scheduler's thread and all state that it alone owns: what Scheduler's methods post as
// messages is done here.
//
// One turn of the loop: take messages; end what has expired; run operations whose sequence is quiet
// and evictions whose session is; ask the batch policy; pin and launch, or wait for the next
// message or instant. A synchronous device is done when Launch returns, and its batch is finished
// in the same turn, with no other thread in between; events of an asynchronous one come back as
// messages.
//
// Thread safety: Post, stats and device_status from any thread; the rest is the thread's own. No
// lock is held while anything outside is called.
//
//   SchedulerLoop loop(cache, engine, metrics, clock, options);
//   loop.Post(SchedulerLoop::Cancelled{id});
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <thread>
#include <variant>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "kernels/base/mutex.h"
#include "kv_cache/kv_cache.h"
#include "server/observe/metrics.h"
#include "server/scheduler/batch_policy.h"
#include "server/scheduler/completion_poller.h"
#include "server/scheduler/inbox.h"
#include "server/scheduler/launched_batches.h"
#include "server/scheduler/request_queue.h"
#include "server/scheduler/scheduler.h"

namespace attnd {

class SchedulerLoop {
 public:
  using Operation = absl::AnyInvocable<void()>;
  struct Submitted {
    RequestId id;
    std::unique_ptr<Request> request;
  };
  struct Cancelled {
    RequestId id;
  };
  struct WhenQuiet {
    SequenceId sequence;
    Operation operation;
  };
  struct EvictSession {
    SessionId session;
    Operation operation;
  };
  struct WhenIdle {
    Operation operation;
  };
  struct BatchDone {
    uint64_t batch;
    absl::Status status;
  };
  struct Stop {};
  using Message =
      std::variant<Submitted, Cancelled, WhenQuiet, EvictSession, WhenIdle, BatchDone, Stop>;

  SchedulerLoop(KvCache& cache, std::span<Engine* const> engines, Metrics& metrics,
                const Clock& clock, const Scheduler::Options& options);
  ~SchedulerLoop();

  void Post(Message message);
  Scheduler::Stats stats() const;
  absl::Status device_status() const ABSL_LOCKS_EXCLUDED(status_mu_);

 private:
  struct Eviction {
    SessionId session;
    Operation operation;
  };

  void Run();
  // One turn; false where the loop ends.
  bool Turn();

  void Handle(Submitted message);
  void Handle(Cancelled message);
  void Handle(WhenQuiet message);
  void Handle(EvictSession message);
  void Handle(WhenIdle message);
  void Handle(const BatchDone& message);
  void Handle(Stop message);

  void RunOperations();
  void RunEvictions();
  void CheckLeases();
  bool HasLaunched(SessionId session) const;

  // Of what the batch policy chose for `device`.
  void LaunchBatch(DeviceIndex device);
  void FinishBatch(LaunchedBatch& batch, const absl::Status& status);
  void Fence(DeviceIndex device, const absl::Status& status) ABSL_LOCKS_EXCLUDED(status_mu_);
  void FinishWhatIsOnFenced();
  // For a dense item: of the devices that work the one with the fewest launches, in turns.
  DeviceIndex DeviceForDense();

  using RequestFilter = absl::FunctionRef<bool(const ActiveRequest&)>;
  using ItemFilter = absl::FunctionRef<bool(const WorkItem&)>;
  using Reason = absl::FunctionRef<absl::Status()>;  // why an item ends without a launch
  void CountDequeued(const QueueNode& node);
  void FinishItem(QueueNode& node, absl::Status status);
  // Ends the queued items that `which` picks; the request itself may be complete then.
  void FinishQueued(ActiveRequest& request, ItemFilter which, Reason reason);
  // The same over all requests, which are completed where they can be.
  void FinishAllQueued(RequestFilter requests, ItemFilter which, Reason reason);
  void CompleteIfFinished(ActiveRequest& request);

  // What the thread knows of a device.
  struct DeviceState {
    Engine* engine = nullptr;
    absl::Status fence;     // INTERNAL once it has failed
    MonotonicTime free_at;  // when its last launch was done
    std::unique_ptr<CompletionPoller> poller;
  };

  KvCache& cache_;
  Metrics& metrics_;
  const Clock& clock_;
  const Scheduler::Options options_;
  const BatchLimits limits_;

  Inbox<Message> inbox_;
  std::vector<Message> messages_;
  std::vector<DeviceState> devices_;  // by DeviceIndex
  RequestQueue queue_;
  BatchScratch scratch_;
  LaunchedBatches batches_;
  std::vector<Eviction> evictions_;
  std::vector<Operation> idle_;
  MonotonicTime now_;  // of this turn
  MonotonicTime next_lease_check_;
  size_t next_dense_ = 0;  // where DeviceForDense looks first
  bool fenced_ = false;    // any device
  bool stopping_ = false;

  struct Counters {
    std::atomic<int64_t> submitted_items = 0, submitted_tokens = 0;  // by submitters
    std::atomic<int64_t> dequeued_items = 0, dequeued_tokens = 0;
    std::atomic<int64_t> launched_items = 0;
    std::atomic<uint64_t> launches_total = 0, items_total = 0;
  };
  Counters counters_;
  mutable Mutex status_mu_;
  absl::Status device_status_ ABSL_GUARDED_BY(status_mu_);  // of the first that failed

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace attnd
