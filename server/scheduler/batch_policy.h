// SPDX-License-Identifier: Apache-2.0
//
// Which queued items go into the next launch, and whether to launch now or to wait for more.
//
// Pure: the same queue, instant and limits give the same batch. Items join in the order of their
// admission. An item may join unless an earlier item of its sequence
//   - was skipped, or waits behind an operation (the queue shows nothing behind one), or
//   - is in the batch with the same layer,
// so that the batch takes a prefix of each sequence's queue, and what one sequence does happens in
// the order of its admission. Dense items have no sequence and wait for nobody. An item too large
// for what is left of the token budget is skipped; one larger than the whole budget is launched
// alone. Whatever is oldest always goes, so nothing starves.
//
// Cost: O(h + k log h) for h heads and k items looked at, however long the queues behind the heads
// are; no allocation once the scratch memory has grown. Not thread-safe per scratch.
//
//   BatchScratch scratch;
//   BatchDecision decision = DecideBatch(queue.heads(), now, limits, scratch);
//   if (decision.launch) Launch(scratch.batch); else SleepUntil(decision.wake_at);
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/base/clock.h"

namespace attnd {

// What the policy sees of a queued item.
struct QueuedItem {
  static constexpr int32_t kDense = -1;

  uint64_t order = 0;      // of admission, unique
  int32_t layer = kDense;  // kDense: no sequence, independent of the items before it
  int64_t tokens = 0;
  MonotonicTime admitted;
  MonotonicTime deadline = kNoDeadline;
  // The next item of the same sequence; null for the last, and where an operation comes next.
  const QueuedItem* next = nullptr;
};

struct BatchLimits {
  int64_t max_items = 256;
  int64_t max_tokens = 8192;
  // How long the oldest item may wait for company. An item whose deadline comes sooner does not
  // wait.
  Duration max_linger{};
};

struct BatchDecision {
  bool launch = false;
  // Where not launching: when to ask again, should nothing change before. kNoDeadline where nothing
  // is queued.
  MonotonicTime wake_at = kNoDeadline;
};

// Reused from call to call.
struct BatchScratch {
  struct Candidate {
    const QueuedItem* item = nullptr;        // the next of its sequence
    const QueuedItem* first = nullptr;       // the sequence's first in the batch, null for none
    int32_t max_layer = QueuedItem::kDense;  // of the sequence's items in the batch
  };
  std::vector<Candidate> heap;
  std::vector<const QueuedItem*> batch;  // the answer, in order of admission
};

// `heads` holds the oldest queued item of each sequence, and that of the dense items, in any order.
// Expired and cancelled items are not among them.
BatchDecision DecideBatch(std::span<const QueuedItem* const> heads, MonotonicTime now,
                          const BatchLimits& limits, BatchScratch& scratch);

}  // namespace attnd
