// SPDX-License-Identifier: Apache-2.0
#include "server/scheduler/batch_policy.h"

#include <algorithm>

namespace attnd {
namespace {

using Candidate = BatchScratch::Candidate;

// For a heap whose top is the candidate that was admitted first.
bool Later(const Candidate& a, const Candidate& b) { return a.item->order > b.item->order; }

// Is the candidate's layer in the batch already? Layers mostly come in ascending order, and then
// the highest one answers.
bool LayerTaken(const Candidate& candidate) {
  const int32_t layer = candidate.item->layer;
  if (layer == QueuedItem::kDense || candidate.first == nullptr || layer > candidate.max_layer) {
    return false;
  }
  for (const QueuedItem* i = candidate.first; i != candidate.item; i = i->next) {
    if (i->layer == layer) return true;
  }
  return false;
}

}  // namespace

BatchDecision DecideBatch(std::span<const QueuedItem* const> heads, MonotonicTime now,
                          const BatchLimits& limits, BatchScratch& scratch) {
  std::vector<Candidate>& heap = scratch.heap;
  std::vector<const QueuedItem*>& batch = scratch.batch;
  heap.clear();
  batch.clear();
  if (heads.empty()) return {};

  for (const QueuedItem* head : heads) heap.push_back({.item = head});
  std::make_heap(heap.begin(), heap.end(), Later);

  int64_t tokens = 0;
  bool full = false;
  bool crowded = false;  // something stays behind for lack of room
  MonotonicTime earliest_deadline = kNoDeadline;
  while (!heap.empty() && !full) {
    std::pop_heap(heap.begin(), heap.end(), Later);
    Candidate candidate = heap.back();
    heap.pop_back();
    const QueuedItem& item = *candidate.item;
    if (LayerTaken(candidate)) continue;  // and so the rest of its sequence waits

    const bool fits = batch.empty() || item.tokens <= limits.max_tokens - tokens;
    if (fits) {
      batch.push_back(&item);
      tokens += item.tokens;
      earliest_deadline = std::min(earliest_deadline, item.deadline);
      if (candidate.first == nullptr) candidate.first = &item;
      candidate.max_layer = std::max(candidate.max_layer, item.layer);
      full = static_cast<int64_t>(batch.size()) >= limits.max_items || tokens >= limits.max_tokens;
    } else {
      crowded = true;
    }
    // A skipped item holds up its sequence; dense items hold up nobody.
    if (item.next != nullptr && (fits || item.layer == QueuedItem::kDense)) {
      candidate.item = item.next;
      heap.push_back(candidate);
      std::push_heap(heap.begin(), heap.end(), Later);
    }
  }

  // More items could not join, or must not be waited for.
  if (full || crowded || limits.max_linger <= Duration::zero()) return {.launch = true};
  const MonotonicTime linger_end = batch.front()->admitted + limits.max_linger;
  if (now >= linger_end || earliest_deadline <= linger_end) return {.launch = true};
  return {.launch = false, .wake_at = linger_end};
}

}  // namespace attnd
