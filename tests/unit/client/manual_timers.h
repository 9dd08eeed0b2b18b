// SPDX-License-Identifier: Apache-2.0
//
// Timers whose time the test moves. Functions run on the thread that calls Advance.
//
//   ManualTimers timers;
//   timers.Advance(std::chrono::seconds(1));   // runs what is due, in order
#pragma once

#include <functional>
#include <map>
#include <utility>

#include "client/cpp/timers.h"
#include "kernels/base/mutex.h"

namespace attnd::client {

class ManualTimers : public Timers {
 public:
  MonotonicTime Now() const override {
    MutexLock lock(mu_);
    return now_;
  }

  void RunAt(MonotonicTime when, std::function<void()> fn) override {
    MutexLock lock(mu_);
    due_.emplace(when, std::move(fn));
    added_.SignalAll();
  }

  void Advance(Duration duration) {
    mu_.Lock();
    const MonotonicTime end = now_ + duration;
    while (!due_.empty() && due_.begin()->first <= end) {
      now_ = std::max(now_, due_.begin()->first);
      std::function<void()> fn = std::move(due_.begin()->second);
      due_.erase(due_.begin());
      mu_.Unlock();
      fn();
      mu_.Lock();
    }
    now_ = end;
    mu_.Unlock();
  }

  // Waits until something is scheduled, and returns how far away the first of it is.
  Duration WaitForNext() {
    MutexLock lock(mu_);
    while (due_.empty()) added_.Wait(mu_);
    return due_.begin()->first - now_;
  }
  bool idle() const {
    MutexLock lock(mu_);
    return due_.empty();
  }

 private:
  mutable Mutex mu_;
  CondVar added_;
  MonotonicTime now_ ABSL_GUARDED_BY(mu_){std::chrono::hours(1)};
  std::multimap<MonotonicTime, std::function<void()>> due_ ABSL_GUARDED_BY(mu_);
};

}  // namespace attnd::client
