// SPDX-License-Identifier: Apache-2.0
//
// Where the client's delayed work runs: retries, lease renewals, completions that had to wait.
//
// An interface, so that tests move time themselves. Thread-safe.
//
//   timers->RunAt(timers->Now() + std::chrono::seconds(1), [] { ... });
#pragma once

#include <functional>
#include <memory>

#include "kernels/base/clock.h"

namespace attnd::client {

class Timers {
 public:
  virtual ~Timers() = default;
  virtual MonotonicTime Now() const = 0;
  // Runs `fn` once, at `when` or soon after, never before this has returned. Functions that are due
  // run one after another, in order of `when`. What has not run when the object is destroyed is
  // dropped: `fn` must own whatever needs an end.
  virtual void RunAt(MonotonicTime when, std::function<void()> fn) = 0;

  // A thread that sleeps until the next function is due.
  static std::shared_ptr<Timers> Real();
};

}  // namespace attnd::client
