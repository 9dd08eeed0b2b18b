// SPDX-License-Identifier: Apache-2.0
#include "server/scheduler/scheduler_loop.h"

#include <pthread.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kv_cache/error_detail.h"

namespace attnd {
namespace {

bool AllItems(const WorkItem&) { return true; }
bool AllRequests(const ActiveRequest&) { return true; }

struct OnDevice {
  DeviceIndex device;
  bool cached = false;  // or dense
  bool operator()(const WorkItem& work) const {
    return work.device == device && work.access.has_value() == cached;
  }
};

struct OfSession {
  SessionId session;
  bool operator()(const WorkItem& work) const {
    return work.access.has_value() && work.access->by.session == session;
  }
};

absl::Status DeadlineExceeded() {
  return absl::DeadlineExceededError("the deadline passed before the launch; nothing was written");
}
absl::Status CancelledBeforeLaunch() {
  return absl::CancelledError("cancelled before the launch; nothing was written");
}
absl::Status ShuttingDown() {
  return absl::CancelledError("the daemon is shutting down; nothing was written");
}
absl::Status Superseded() {
  return AttachErrorDetail(
      absl::AbortedError("superseded: the session was resumed or closed; nothing was written"),
      {.reason = ErrorReason::kSuperseded});
}
// A status of its own for each use: they are counted by reference in a library without
// ThreadSanitizer's instrumentation.
absl::Status Copy(const absl::Status& status) {
  return absl::Status(status.code(), status.message());
}

// For counters that one thread writes: cheaper than an atomic addition.
template <typename T>
void Bump(std::atomic<T>& counter, T by) {
  counter.store(counter.load(std::memory_order_relaxed) + by, std::memory_order_release);
}

BatchLimits LimitsOf(const Scheduler::Options& options) {
  return {.max_items = std::max<int64_t>(options.max_batch_items, 1),
          .max_tokens = options.max_batch_tokens,
          .max_linger = options.max_linger};
}

}  // namespace

SchedulerLoop::SchedulerLoop(KvCache& cache, std::span<Engine* const> engines, Metrics& metrics,
                             const Clock& clock, const Scheduler::Options& options)
    : cache_(cache),
      metrics_(metrics),
      clock_(clock),
      options_(options),
      limits_(LimitsOf(options)),
      inbox_(clock, options.max_spin),
      devices_(engines.size()),
      queue_(engines.size()),
      batches_(cache, engines, options.max_launches_in_flight),
      next_lease_check_(options.lease_check_interval > Duration::zero()
                            ? clock.Now() + options.lease_check_interval
                            : kNoDeadline) {
  for (size_t i = 0; i < engines.size(); ++i) {
    devices_[i].engine = engines[i];
    // One each: a poller waits for its events in the order of their launches.
    devices_[i].poller =
        std::make_unique<CompletionPoller>([this](uint64_t batch, absl::Status status) {
          inbox_.Post(BatchDone{batch, std::move(status)});
        });
  }
  thread_ = std::thread([this] { Run(); });
}

SchedulerLoop::~SchedulerLoop() {
  inbox_.Post(Stop{});
  thread_.join();
}

void SchedulerLoop::Post(Message message) {
  if (auto* submitted = std::get_if<Submitted>(&message)) {
    Request& request = *submitted->request;
    request.outcomes.resize(request.items.size());
    int64_t items = 0, tokens = 0;
    for (size_t i = 0; i < request.items.size(); ++i) {
      if (request.outcomes[i].finished()) continue;
      ++items;
      tokens += request.items[i].num_tokens();
    }
    counters_.submitted_items.fetch_add(items, std::memory_order_relaxed);
    counters_.submitted_tokens.fetch_add(tokens, std::memory_order_relaxed);
  }
  inbox_.Post(std::move(message));
}

void SchedulerLoop::Run() {
  pthread_setname_np(pthread_self(), "attnd-sched");
  while (Turn()) {
  }
}

bool SchedulerLoop::Turn() {
  inbox_.Take(messages_);
  now_ = clock_.Now();
  for (Message& message : messages_) {
    std::visit([this](auto& m) { Handle(std::move(m)); }, message);
  }
  messages_.clear();

  if (queue_.num_queued() > 0 && now_ >= queue_.earliest_deadline()) {
    FinishAllQueued([this](const ActiveRequest& r) { return now_ >= r.request->deadline; },
                    AllItems, DeadlineExceeded);
    queue_.RecomputeDeadline();
  }
  if (fenced_) FinishWhatIsOnFenced();
  if (stopping_) FinishAllQueued(AllRequests, AllItems, ShuttingDown);
  CheckLeases();
  RunEvictions();
  RunOperations();

  MonotonicTime wake_at = next_lease_check_;
  if (queue_.num_queued() > 0) wake_at = std::min(wake_at, queue_.earliest_deadline());
  bool launched = false;
  for (uint32_t i = 0; i < devices_.size(); ++i) {
    const DeviceIndex device(i);
    if (batches_.full(device)) continue;
    const BatchDecision decision = DecideBatch(queue_.heads(device), now_, limits_, scratch_);
    if (decision.launch) {
      LaunchBatch(device);
      launched = true;
    }
    wake_at = std::min(wake_at, decision.wake_at);
  }
  if (launched) return true;
  if (queue_.empty() && batches_.in_flight().empty() && evictions_.empty()) {
    for (Operation& operation : std::exchange(idle_, {})) operation();
    // A callback may have posted something since.
    if (stopping_ && inbox_.empty()) return false;
  }
  inbox_.Wait(wake_at);
  return true;
}

void SchedulerLoop::Handle(Submitted message) {
  for (WorkItem& work : message.request->items) {
    if (!work.access.has_value()) work.device = DeviceForDense();
  }
  ActiveRequest& request = queue_.Add(message.id, std::move(message.request));
  for (const Eviction& eviction : evictions_) {
    FinishQueued(request, OfSession{eviction.session}, Superseded);
  }
  CompleteIfFinished(request);
}

void SchedulerLoop::Handle(Cancelled message) {
  ActiveRequest* request = queue_.Find(message.id);
  if (request == nullptr) return;
  FinishQueued(*request, AllItems, CancelledBeforeLaunch);
  CompleteIfFinished(*request);
}

void SchedulerLoop::Handle(WhenQuiet message) {
  queue_.AddOperation(message.sequence, std::move(message.operation));
}

void SchedulerLoop::Handle(EvictSession message) {
  FinishAllQueued(AllRequests, OfSession{message.session}, Superseded);
  evictions_.push_back({message.session, std::move(message.operation)});
}

void SchedulerLoop::Handle(WhenIdle message) { idle_.push_back(std::move(message.operation)); }

void SchedulerLoop::Handle(const BatchDone& message) {
  FinishBatch(batches_.Find(message.batch), message.status);
}

void SchedulerLoop::Handle(Stop) { stopping_ = true; }

void SchedulerLoop::RunOperations() {
  while (Operation operation = queue_.TakeOperation()) operation();
}

void SchedulerLoop::RunEvictions() {
  for (size_t i = 0; i < evictions_.size();) {
    if (HasLaunched(evictions_[i].session)) {
      ++i;
      continue;
    }
    Operation operation = std::move(evictions_[i].operation);
    evictions_.erase(evictions_.begin() + static_cast<ptrdiff_t>(i));
    operation();
  }
}

bool SchedulerLoop::HasLaunched(SessionId session) const {
  const OfSession of_session{session};
  for (const std::unique_ptr<LaunchedBatch>& batch : batches_.in_flight()) {
    for (const QueueNode* node : batch->nodes) {
      if (of_session(node->request->work(*node))) return true;
    }
  }
  return false;
}

void SchedulerLoop::CheckLeases() {
  if (now_ < next_lease_check_) return;
  next_lease_check_ = now_ + options_.lease_check_interval;
  for (const SessionRef& by : cache_.ExpiredSessions()) {
    const bool pending = std::any_of(evictions_.begin(), evictions_.end(),
                                     [&](const Eviction& e) { return e.session == by.session; });
    if (pending) continue;
    // An ended lease cannot be renewed: what is expired now is so when its launches are done.
    Handle(EvictSession{by.session, [this, by] {
                          if (cache_.CloseSession(by).ok()) metrics_.RecordLeaseExpired();
                        }});
  }
}

void SchedulerLoop::LaunchBatch(DeviceIndex device) {
  LaunchedBatch& batch = batches_.New(device, now_);
  for (const QueuedItem* item : scratch_.batch) {
    QueueNode& node = queue_.NodeOf(*item);
    ActiveRequest& request = *node.request;
    if (absl::Status pinned = batches_.Pin(batch, node); !pinned.ok()) {
      FinishItem(node, std::move(pinned));
      CompleteIfFinished(request);
      continue;
    }
    if (!request.launched_before) request.request->times.launched = now_;
    request.launched_before = true;
    CountDequeued(node);
    queue_.MarkLaunched(node);
  }
  if (batch.nodes.empty()) {
    batches_.Recycle(batch);
    return;
  }
  const auto num_items = static_cast<int64_t>(batch.nodes.size());
  Bump(counters_.launched_items, num_items);
  Bump(counters_.items_total, static_cast<uint64_t>(num_items));
  Bump(counters_.launches_total, uint64_t{1});

  const absl::Status launched = batches_.Launch(batch);
  if (!launched.ok()) {
    FinishBatch(batch, launched);
  } else if (batches_.num_in_flight(device) == 1 && batch.event->Done()) {
    FinishBatch(batch, batch.event->Wait());
  } else {
    devices_[device.value()].poller->Watch(*batch.event, batch.number);
  }
}

void SchedulerLoop::FinishBatch(LaunchedBatch& batch, const absl::Status& status) {
  now_ = clock_.Now();
  if (!status.ok()) Fence(batch.device, status);
  DeviceState& device = devices_[batch.device.value()];
  Bump(counters_.launched_items, -static_cast<int64_t>(batch.nodes.size()));
  if (device.fence.ok()) {
    LaunchRecord record = batch.Record();
    record.kernel = now_ - std::max(batch.launched, device.free_at);
    metrics_.RecordLaunch(record);
    batch.RecordTenants(metrics_);
    batch.FillOutcomes();
  }
  device.free_at = now_;
  // Pages are free again, and the metrics have moved, before anyone hears of the end.
  batch.leases.clear();
  for (QueueNode* node : batch.nodes) {
    ActiveRequest& request = *node->request;
    FinishItem(*node, Copy(device.fence));
    CompleteIfFinished(request);
  }
  batches_.Recycle(batch);
}

void SchedulerLoop::Fence(DeviceIndex index, const absl::Status& status) {
  DeviceState& device = devices_[index.value()];
  if (!device.fence.ok()) return;
  device.fence = absl::InternalError(absl::StrCat("device \"", device.engine->device_info().name,
                                                  "\" failed: ", status.message()));
  cache_.FenceDevice(index, std::string(device.fence.message()));
  if (std::exchange(fenced_, true)) return;
  MutexLock lock(status_mu_);
  device_status_ = Copy(device.fence);
}

void SchedulerLoop::FinishWhatIsOnFenced() {
  for (uint32_t i = 0; i < devices_.size(); ++i) {
    const absl::Status& fence = devices_[i].fence;
    if (fence.ok()) continue;
    FinishAllQueued(AllRequests, OnDevice{DeviceIndex(i), /*cached=*/true},
                    [&] { return KvCache::DataLoss(std::string(fence.message())); });
    FinishAllQueued(AllRequests, OnDevice{DeviceIndex(i), /*cached=*/false},
                    [&] { return Copy(fence); });
  }
}

DeviceIndex SchedulerLoop::DeviceForDense() {
  size_t best = next_dense_ % devices_.size();
  for (size_t i = 0; i < devices_.size(); ++i) {
    const size_t candidate = (next_dense_ + i) % devices_.size();
    const auto load = [&](size_t device) {
      return std::pair(!devices_[device].fence.ok(),
                       batches_.num_in_flight(DeviceIndex(static_cast<uint32_t>(device))));
    };
    if (load(candidate) < load(best)) best = candidate;
  }
  next_dense_ = best + 1;
  return DeviceIndex(static_cast<uint32_t>(best));
}

void SchedulerLoop::CountDequeued(const QueueNode& node) {
  Bump(counters_.dequeued_items, int64_t{1});
  Bump(counters_.dequeued_tokens, node.tokens);
}

void SchedulerLoop::FinishItem(QueueNode& node, absl::Status status) {
  Request& request = *node.request->request;
  request.outcomes[node.index].status = std::move(status);
  if (node.state == QueueNode::State::kQueued) {
    CountDequeued(node);
    // What was promised to an item that will not run is for others to have.
    if (node.index < request.reservations.size()) request.reservations[node.index].Release();
  }
  queue_.MarkFinished(node);
}

void SchedulerLoop::FinishQueued(ActiveRequest& request, ItemFilter which, Reason reason) {
  for (QueueNode& node : request.nodes) {
    if (node.state != QueueNode::State::kQueued || !which(request.work(node))) continue;
    FinishItem(node, reason());
  }
}

void SchedulerLoop::FinishAllQueued(RequestFilter requests, ItemFilter which, Reason reason) {
  for (ActiveRequest* request = queue_.first(); request != nullptr;) {
    ActiveRequest* const next = request->next;
    if (requests(*request)) {
      FinishQueued(*request, which, reason);
      CompleteIfFinished(*request);
    }
    request = next;
  }
}

void SchedulerLoop::CompleteIfFinished(ActiveRequest& active) {
  if (active.unfinished > 0) return;
  const bool launched = active.launched_before;
  std::unique_ptr<Request> request = queue_.Remove(active);
  request->times.done = now_;
  if (!launched) request->times.launched = now_;
  for (const ItemOutcome& outcome : request->outcomes) metrics_.RecordItem(outcome.status.code());
  auto done = std::move(request->done);
  if (done) done(std::move(request));
}

Scheduler::Stats SchedulerLoop::stats() const {
  // What has left the queue is read first: the difference is never negative.
  const int64_t items = counters_.dequeued_items.load(std::memory_order_acquire);
  const int64_t tokens = counters_.dequeued_tokens.load(std::memory_order_acquire);
  return {.queued_items = counters_.submitted_items.load(std::memory_order_relaxed) - items,
          .queued_tokens = counters_.submitted_tokens.load(std::memory_order_relaxed) - tokens,
          .launched_items = counters_.launched_items.load(std::memory_order_relaxed),
          .launches_total = counters_.launches_total.load(std::memory_order_relaxed),
          .items_total = counters_.items_total.load(std::memory_order_relaxed)};
}

absl::Status SchedulerLoop::device_status() const {
  MutexLock lock(status_mu_);
  return Copy(device_status_);
}

}  // namespace attnd
