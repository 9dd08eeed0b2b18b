// SPDX-License-Identifier: Apache-2.0
//
// A clock that stands still until a test moves it. Thread-safe.
//
//   FakeClock clock;
//   clock.Advance(std::chrono::seconds(5));
#pragma once

#include <atomic>
#include <chrono>

#include "kernels/base/clock.h"

namespace attnd {

class FakeClock final : public Clock {
 public:
  MonotonicTime Now() const override { return MonotonicTime(Duration(now_ns_.load())); }
  void Advance(Duration by) { now_ns_.fetch_add(by.count()); }

 private:
  // Not zero: a default MonotonicTime is then recognisably no instant of the test.
  std::atomic<int64_t> now_ns_ = Duration(std::chrono::hours(1)).count();
};

}  // namespace attnd
