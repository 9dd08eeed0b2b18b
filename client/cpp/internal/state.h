// SPDX-License-Identifier: Apache-2.0
//
// What handles of one session, or of one sequence, share.
//
// Immutable after construction but for the step counters and the renewer, which look after
// themselves. A SequenceState keeps its session's connection; the session's lease is renewed while
// the Session object lives, whatever sequences are left.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "client/cpp/internal/connection.h"
#include "client/cpp/internal/lease_renewer.h"
#include "client/cpp/types.h"

namespace attnd::client {

struct SessionState {
  std::shared_ptr<Connection> connection;  // shared by all that is used through it
  Id id;
  std::string token;
  uint64_t epoch = 0;
  Duration lease{};
  std::shared_ptr<LeaseRenewer> renewer;  // shared with its timer; null: not renewed
};

struct SequenceState {
  SequenceState(std::shared_ptr<SessionState> owner, Id sequence, CacheInfo in_cache,
                int64_t matched = 0)
      : session(std::move(owner)),
        id(sequence),
        cache(std::move(in_cache)),
        matched_tokens(matched),
        steps(static_cast<size_t>(cache.geometry.num_layers)) {}

  // The step of the next write to `layer`; `given` where the caller counts for itself.
  uint64_t TakeStep(int32_t layer, uint64_t given) {
    std::atomic<uint64_t>& step = steps[static_cast<size_t>(layer)];
    if (given == 0) return step.fetch_add(1, std::memory_order_relaxed) + 1;
    uint64_t newest = step.load(std::memory_order_relaxed);
    while (newest < given && !step.compare_exchange_weak(newest, given)) {
    }
    return given;
  }

  const std::shared_ptr<SessionState> session;  // shared with the Session
  const Id id;
  const CacheInfo cache;
  const int64_t matched_tokens;              // that it was created with
  std::vector<std::atomic<uint64_t>> steps;  // by layer: the step used last
};

}  // namespace attnd::client
