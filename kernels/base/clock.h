// SPDX-License-Identifier: Apache-2.0
//
// Time comes from an injected Clock, so that batching, deadlines and leases are tested without
// sleeping. Instants are monotonic: they never go back and are not wall-clock times.
// Thread-safe.
//
//   MonotonicTime deadline = clock.Now() + std::chrono::milliseconds(5);
#pragma once

#include <chrono>

namespace attnd {

using Duration = std::chrono::nanoseconds;
using MonotonicTime = std::chrono::time_point<std::chrono::steady_clock, Duration>;

// A deadline that never comes.
inline constexpr MonotonicTime kNoDeadline = MonotonicTime::max();

class Clock {
 public:
  virtual ~Clock() = default;
  virtual MonotonicTime Now() const = 0;

  // The process's steady clock; never destroyed.
  static const Clock& Real();
};

}  // namespace attnd
