// SPDX-License-Identifier: Apache-2.0
//
// How fast the queue has been draining lately, and so how long a refused client had better wait.
//
// An exponentially decayed sum over about the last second. Not thread-safe.
//
//   rate.Add({.requests = 1, .items = 8, .tokens = 8}, now);
//   Duration delay = rate.TimeToDrain(excess, now);
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>

#include "kernels/base/clock.h"
#include "server/scheduler/admission_ticket.h"

namespace attnd {

class DrainRate {
 public:
  // What a client is told lies between these: soon enough to keep the queue full, late enough not
  // to flood it with attempts.
  static constexpr Duration kMinDelay = std::chrono::milliseconds(1);
  static constexpr Duration kMaxDelay = std::chrono::seconds(2);

  void Add(const QueueCost& drained, MonotonicTime now) {
    Decay(now);
    requests_ += static_cast<double>(drained.requests);
    items_ += static_cast<double>(drained.items);
    tokens_ += static_cast<double>(drained.tokens);
  }

  // Until `excess` will have drained at the recent rate; kMaxDelay where nothing drained lately.
  Duration TimeToDrain(const QueueCost& excess, MonotonicTime now) {
    Decay(now);
    const double seconds =
        std::max({Seconds(excess.requests, requests_), Seconds(excess.items, items_),
                  Seconds(excess.tokens, tokens_)});
    const double bounded = std::min(seconds, std::chrono::duration<double>(kMaxDelay).count());
    return std::max(kMinDelay,
                    std::chrono::duration_cast<Duration>(std::chrono::duration<double>(bounded)));
  }

 private:
  static constexpr double kWindowSeconds = 1.0;

  static double Seconds(int64_t excess, double drained) {
    if (excess <= 0) return 0;
    return static_cast<double>(excess) * kWindowSeconds / std::max(drained, 1e-9);
  }

  void Decay(MonotonicTime now) {
    const double elapsed = std::chrono::duration<double>(now - last_).count();
    last_ = now;
    if (elapsed <= 0) return;
    const double factor = std::exp(-elapsed / kWindowSeconds);
    requests_ *= factor;
    items_ *= factor;
    tokens_ *= factor;
  }

  MonotonicTime last_;
  double requests_ = 0, items_ = 0, tokens_ = 0;
};

}  // namespace attnd
