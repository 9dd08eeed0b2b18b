// SPDX-License-Identifier: Apache-2.0
//
// All requests that the scheduler holds: one queue of items and operations per sequence, the
// operations that have become runnable, and what is launched. Batches are made for one device, so
// what may go next is shown for each.
//
// An item is queued, then launched or not, then finished. An operation at the head of its
// sequence's queue becomes runnable once none of the sequence's items is launched; whatever was
// queued behind it shows only after it has been taken. Nothing allocates once its pools have grown.
//
// Not thread-safe: the scheduler's thread owns it.
//
//   ActiveRequest& request = queue.Add(id, std::move(r));
//   DecideBatch(queue.heads(device), ...);
//   queue.MarkLaunched(item); ... queue.MarkFinished(item);
//   if (request.unfinished == 0) std::unique_ptr<Request> r = queue.Remove(request);
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "kernels/base/clock.h"
#include "kv_cache/ids.h"
#include "server/engine/work_item.h"
#include "server/scheduler/batch_policy.h"
#include "server/scheduler/request.h"

namespace attnd {

struct ActiveRequest;
struct SequenceQueue;

// An item of an active request, or an operation between items.
struct QueueNode : QueuedItem {
  enum class State : uint8_t { kQueued, kLaunched, kFinished };

  ActiveRequest* request = nullptr;  // null for an operation
  uint32_t index = 0;                // of the item in its request
  State state = State::kFinished;
  // Neighbours in the sequence's queue. QueuedItem::next mirrors `after` where that is an item.
  QueueNode* before = nullptr;
  QueueNode* after = nullptr;
  SequenceQueue* sequence = nullptr;
};

struct OperationNode : QueueNode {
  absl::AnyInvocable<void()> run;
};

struct SequenceQueue {
  std::optional<SequenceId> id;  // none: the dense items
  QueueNode* head = nullptr;
  QueueNode* tail = nullptr;
  DeviceIndex device;  // of its items; of no meaning while it has none
  int64_t launched = 0;
  int32_t head_index = -1;  // in its device's heads, -1 where the head is no item
  bool runnable = false;    // its head is an operation that may run
};

struct ActiveRequest {
  RequestId id = kNoRequest;
  std::unique_ptr<Request> request;
  std::vector<QueueNode> nodes;  // one per item, at stable addresses
  int64_t unfinished = 0;
  bool launched_before = false;
  // In order of admission.
  ActiveRequest* previous = nullptr;
  ActiveRequest* next = nullptr;

  const WorkItem& work(const QueueNode& node) const { return request->items[node.index]; }
};

class RequestQueue {
 public:
  explicit RequestQueue(size_t num_devices = 1);
  ~RequestQueue();
  RequestQueue(const RequestQueue&) = delete;
  RequestQueue& operator=(const RequestQueue&) = delete;

  // Queues every item whose outcome is not finished yet.
  ActiveRequest& Add(RequestId id, std::unique_ptr<Request> request);
  // Behind everything that is queued or launched of `sequence`.
  void AddOperation(SequenceId sequence, absl::AnyInvocable<void()> run);

  // For the batch policy.
  std::span<const QueuedItem* const> heads(DeviceIndex device = DeviceIndex()) const {
    return devices_[device.value()].heads;
  }

  QueueNode& NodeOf(const QueuedItem& head_or_next);

  // queued -> launched
  void MarkLaunched(QueueNode& item);
  // queued or launched -> finished
  void MarkFinished(QueueNode& item);
  // Takes a request whose items have all finished.
  std::unique_ptr<Request> Remove(ActiveRequest& request);

  // The next operation that may run, out of its queue; empty where there is none.
  absl::AnyInvocable<void()> TakeOperation();

  ActiveRequest* Find(RequestId id);
  // The oldest; walk on with `next`. Null where there is none.
  ActiveRequest* first() { return first_; }
  // At most the earliest deadline of a queued item; exact after RecomputeDeadline.
  MonotonicTime earliest_deadline() const { return earliest_deadline_; }
  void RecomputeDeadline();

  bool empty() const { return first_ == nullptr && sequences_.empty(); }
  int64_t num_queued() const { return num_queued_; }

 private:
  SequenceQueue& QueueOf(const std::optional<SequenceId>& sequence);
  void Append(SequenceQueue& sequence, QueueNode& node);
  void Unlink(QueueNode& node);
  // After a change of a queue's head or of its launched items: is its head an item to show, an
  // operation to run, or is the queue itself done with?
  void Update(SequenceQueue& sequence);
  void ShowHead(SequenceQueue& sequence, const QueuedItem* head);

  uint64_t next_order_ = 0;
  int64_t num_queued_ = 0;
  MonotonicTime earliest_deadline_ = kNoDeadline;

  struct OnDevice {
    std::vector<const QueuedItem*> heads;
    std::vector<SequenceQueue*> owners;  // parallel to heads
    SequenceQueue dense;
  };
  std::vector<OnDevice> devices_;         // by DeviceIndex; never resized
  std::vector<SequenceQueue*> runnable_;  // in the order in which they became so
  absl::flat_hash_map<SequenceId, std::unique_ptr<SequenceQueue>> sequences_;
  std::vector<std::unique_ptr<SequenceQueue>> free_sequences_;

  ActiveRequest* first_ = nullptr;
  ActiveRequest* last_ = nullptr;
  absl::flat_hash_map<RequestId, std::unique_ptr<ActiveRequest>> requests_;
  std::vector<std::unique_ptr<ActiveRequest>> free_requests_;
};

}  // namespace attnd
