// SPDX-License-Identifier: Apache-2.0
#include "server/scheduler/request_queue.h"

#include <algorithm>
#include <utility>

#include "kv_cache/check.h"

namespace attnd {
namespace {

// Idle objects that are kept for the next request, and the largest node array worth keeping.
constexpr size_t kMaxFreeObjects = 1024;
constexpr size_t kMaxKeptNodes = 256;

bool IsOperation(const QueueNode& node) { return node.request == nullptr; }

template <typename T>
std::unique_ptr<T> TakeFree(std::vector<std::unique_ptr<T>>& free) {
  if (free.empty()) return std::make_unique<T>();
  std::unique_ptr<T> object = std::move(free.back());
  free.pop_back();
  return object;
}

}  // namespace

RequestQueue::RequestQueue(size_t num_devices) : devices_(num_devices) {
  for (size_t i = 0; i < num_devices; ++i) {
    devices_[i].dense.device = DeviceIndex(static_cast<uint32_t>(i));
  }
}

RequestQueue::~RequestQueue() {
  for (auto& [id, sequence] : sequences_) {
    for (QueueNode* node = sequence->head; node != nullptr;) {
      QueueNode* after = node->after;
      if (IsOperation(*node)) delete static_cast<OperationNode*>(node);
      node = after;
    }
  }
}

ActiveRequest& RequestQueue::Add(RequestId id, std::unique_ptr<Request> request) {
  std::unique_ptr<ActiveRequest> owned = TakeFree(free_requests_);
  ActiveRequest& active = *owned;
  active.id = id;
  active.request = std::move(request);
  active.unfinished = 0;
  active.launched_before = false;
  active.previous = last_;
  active.next = nullptr;
  (last_ == nullptr ? first_ : last_->next) = &active;
  last_ = &active;
  requests_.emplace(id, std::move(owned));

  const Request& r = *active.request;
  active.nodes.resize(r.items.size());
  for (size_t i = 0; i < r.items.size(); ++i) {
    if (r.outcomes[i].finished()) continue;
    const WorkItem& work = r.items[i];
    QueueNode& node = active.nodes[i];
    node = QueueNode();
    node.order = next_order_++;
    node.layer =
        work.access ? static_cast<int32_t>(work.access->layer.value()) : QueuedItem::kDense;
    node.tokens = work.num_tokens();
    node.admitted = r.times.admitted;
    node.deadline = r.deadline;
    node.request = &active;
    node.index = static_cast<uint32_t>(i);
    node.state = QueueNode::State::kQueued;
    SequenceQueue& queue =
        work.access ? QueueOf(work.access->sequence) : devices_[work.device.value()].dense;
    queue.device = work.device;
    Append(queue, node);
    ++active.unfinished;
  }
  num_queued_ += active.unfinished;
  if (active.unfinished > 0) earliest_deadline_ = std::min(earliest_deadline_, r.deadline);
  return active;
}

void RequestQueue::AddOperation(SequenceId sequence, absl::AnyInvocable<void()> run) {
  auto node = std::make_unique<OperationNode>();
  node->order = next_order_++;
  node->run = std::move(run);
  node->state = QueueNode::State::kQueued;
  Append(QueueOf(sequence), *node.release());
}

QueueNode& RequestQueue::NodeOf(const QueuedItem& head_or_next) {
  // Every item that the policy sees is one of our nodes, shown as const.
  return const_cast<QueueNode&>(static_cast<const QueueNode&>(head_or_next));
}

void RequestQueue::MarkLaunched(QueueNode& item) {
  ATTND_CHECK(item.state == QueueNode::State::kQueued, "launched twice, or after its end");
  item.state = QueueNode::State::kLaunched;
  --num_queued_;
  ++item.sequence->launched;
  Unlink(item);
}

void RequestQueue::MarkFinished(QueueNode& item) {
  ATTND_CHECK(item.state != QueueNode::State::kFinished, "finished twice");
  const bool was_queued = item.state == QueueNode::State::kQueued;
  item.state = QueueNode::State::kFinished;
  --item.request->unfinished;
  if (was_queued) {
    --num_queued_;
    Unlink(item);
  } else {
    --item.sequence->launched;
    Update(*item.sequence);
  }
}

std::unique_ptr<Request> RequestQueue::Remove(ActiveRequest& request) {
  ATTND_CHECK(request.unfinished == 0, "a request leaves after its last item");
  (request.previous == nullptr ? first_ : request.previous->next) = request.next;
  (request.next == nullptr ? last_ : request.next->previous) = request.previous;
  std::unique_ptr<Request> result = std::move(request.request);
  const auto found = requests_.find(request.id);
  if (free_requests_.size() < kMaxFreeObjects) {
    request.nodes.clear();
    if (request.nodes.capacity() > kMaxKeptNodes) request.nodes.shrink_to_fit();
    free_requests_.push_back(std::move(found->second));
  }
  requests_.erase(found);
  return result;
}

absl::AnyInvocable<void()> RequestQueue::TakeOperation() {
  if (runnable_.empty()) return nullptr;
  SequenceQueue& sequence = *runnable_.front();
  runnable_.erase(runnable_.begin());
  sequence.runnable = false;
  const std::unique_ptr<OperationNode> node(static_cast<OperationNode*>(sequence.head));
  absl::AnyInvocable<void()> run = std::move(node->run);
  Unlink(*node);
  return run;
}

ActiveRequest* RequestQueue::Find(RequestId id) {
  const auto found = requests_.find(id);
  return found == requests_.end() ? nullptr : found->second.get();
}

void RequestQueue::RecomputeDeadline() {
  earliest_deadline_ = kNoDeadline;
  for (ActiveRequest* request = first_; request != nullptr; request = request->next) {
    for (const QueueNode& node : request->nodes) {
      if (node.state != QueueNode::State::kQueued) continue;
      earliest_deadline_ = std::min(earliest_deadline_, node.deadline);
      break;  // one deadline a request
    }
  }
}

SequenceQueue& RequestQueue::QueueOf(const std::optional<SequenceId>& sequence) {
  auto [found, inserted] = sequences_.try_emplace(*sequence);
  if (inserted) {
    found->second = TakeFree(free_sequences_);
    *found->second = SequenceQueue{.id = sequence, .device = {}};
  }
  return *found->second;
}

void RequestQueue::Append(SequenceQueue& sequence, QueueNode& node) {
  node.sequence = &sequence;
  node.before = sequence.tail;
  node.after = nullptr;
  if (sequence.tail != nullptr) {
    sequence.tail->after = &node;
    if (!IsOperation(node)) sequence.tail->next = &node;
  }
  sequence.tail = &node;
  if (sequence.head == nullptr) {
    sequence.head = &node;
    Update(sequence);
  }
}

void RequestQueue::Unlink(QueueNode& node) {
  SequenceQueue& sequence = *node.sequence;
  QueueNode* const before = node.before;
  QueueNode* const after = node.after;
  if (after != nullptr) after->before = before;
  if (after == nullptr) sequence.tail = before;
  if (before != nullptr) {
    before->after = after;
    before->next = after != nullptr && !IsOperation(*after) ? after : nullptr;
  }
  node.before = node.after = nullptr;
  node.next = nullptr;
  if (before == nullptr) sequence.head = after;
  // Also where the head stays: the queue may be empty now, or its last launched item be gone.
  Update(sequence);
}

void RequestQueue::Update(SequenceQueue& sequence) {
  QueueNode* const head = sequence.head;
  const bool operation = head != nullptr && IsOperation(*head);
  ShowHead(sequence, operation ? nullptr : head);
  if (operation && sequence.launched == 0 && !sequence.runnable) {
    sequence.runnable = true;
    runnable_.push_back(&sequence);
  }
  if (head == nullptr && sequence.launched == 0 && sequence.id.has_value()) {
    const auto found = sequences_.find(*sequence.id);
    if (free_sequences_.size() < kMaxFreeObjects) {
      free_sequences_.push_back(std::move(found->second));
    }
    sequences_.erase(found);
  }
}

void RequestQueue::ShowHead(SequenceQueue& sequence, const QueuedItem* head) {
  auto& [heads, owners, dense] = devices_[sequence.device.value()];
  if (head != nullptr && sequence.head_index >= 0) {
    heads[static_cast<size_t>(sequence.head_index)] = head;
  } else if (head != nullptr) {
    sequence.head_index = static_cast<int32_t>(heads.size());
    heads.push_back(head);
    owners.push_back(&sequence);
  } else if (sequence.head_index >= 0) {
    const size_t index = static_cast<size_t>(std::exchange(sequence.head_index, -1));
    heads[index] = heads.back();
    owners[index] = owners.back();
    owners[index]->head_index = static_cast<int32_t>(index);
    heads.pop_back();
    owners.pop_back();
    // The removed one may have been the last itself.
    sequence.head_index = -1;
  }
}

}  // namespace attnd
