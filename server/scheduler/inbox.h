// SPDX-License-Identifier: Apache-2.0
//
// Messages from many threads to one, in order. Posting costs a short lock, and a wake-up only where
// the consumer sleeps.
//
// The consumer spins for a little before it sleeps, but only where spinning would have paid the
// last time: after an idle gap longer than the spin it sleeps at once, so that a quiet daemon, or
// one whose requests come at a distance, takes no processor from anyone.
//
// Post from any thread; Take and Wait from the consumer's alone.
//
//   inbox.Post(message);                       // producers
//   inbox.Wait(wake_at); inbox.Take(messages);  // the consumer
#pragma once

#include <atomic>
#include <utility>
#include <vector>

#include "kernels/base/clock.h"
#include "kernels/base/mutex.h"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace attnd {

inline void SpinPause() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <typename Message>
class Inbox {
 public:
  Inbox(const Clock& clock, Duration max_spin) : clock_(clock), max_spin_(max_spin) {}

  void Post(Message message) ABSL_LOCKS_EXCLUDED(mu_) {
    bool wake;
    {
      MutexLock lock(mu_);
      messages_.push_back(std::move(message));
      pending_.store(true, std::memory_order_release);
      wake = std::exchange(sleeping_, false);
    }
    if (wake) posted_.Signal();
  }

  bool empty() const { return !pending_.load(std::memory_order_acquire); }

  // Swaps everything posted so far into `messages`, which must be empty.
  void Take(std::vector<Message>& messages) ABSL_LOCKS_EXCLUDED(mu_) {
    if (empty()) return;
    MutexLock lock(mu_);
    messages.swap(messages_);
    pending_.store(false, std::memory_order_relaxed);
  }

  // Returns once something is posted or `wake_at` has passed on the clock; may return sooner.
  void Wait(MonotonicTime wake_at) ABSL_LOCKS_EXCLUDED(mu_) {
    if (!empty()) return;
    const MonotonicTime start = clock_.Now();
    if (start >= wake_at) return;
    if (!spin_pays_ || !Spin(start + max_spin_)) Sleep(start, wake_at);
    spin_pays_ = clock_.Now() - start < max_spin_;
  }

 private:
  // True where something was posted meanwhile. The number of turns is bounded for clocks that stand
  // still.
  bool Spin(MonotonicTime end) {
    constexpr int kPausesATurn = 16, kMaxTurns = 4096;
    for (int turn = 0; turn < kMaxTurns; ++turn) {
      for (int i = 0; i < kPausesATurn; ++i) {
        if (!empty()) return true;
        SpinPause();
      }
      if (clock_.Now() >= end) return false;
    }
    return false;
  }

  void Sleep(MonotonicTime now, MonotonicTime wake_at) ABSL_LOCKS_EXCLUDED(mu_) {
    // The injected clock decides whether it is time; the system's measures how long to sleep.
    const MonotonicTime until =
        wake_at == kNoDeadline ? kNoDeadline : Clock::Real().Now() + (wake_at - now);
    MutexLock lock(mu_);
    while (messages_.empty()) {
      sleeping_ = true;
      if (!posted_.WaitUntil(mu_, until)) break;
    }
    sleeping_ = false;
  }

  const Clock& clock_;
  const Duration max_spin_;
  bool spin_pays_ = false;             // the consumer's
  std::atomic<bool> pending_ = false;  // messages_ is not empty
  Mutex mu_;
  CondVar posted_;
  std::vector<Message> messages_ ABSL_GUARDED_BY(mu_);
  bool sleeping_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace attnd
