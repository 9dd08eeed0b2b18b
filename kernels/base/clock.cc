// SPDX-License-Identifier: Apache-2.0
#include "kernels/base/clock.h"

namespace attnd {
namespace {

class SteadyClock final : public Clock {
 public:
  MonotonicTime Now() const override {
    return std::chrono::time_point_cast<Duration>(std::chrono::steady_clock::now());
  }
};

}  // namespace

const Clock& Clock::Real() {
  static const SteadyClock clock;
  return clock;
}

}  // namespace attnd
