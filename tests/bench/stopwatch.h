// SPDX-License-Identifier: Apache-2.0
//
// Wall time since construction.
//
//   const Stopwatch watch;
//   double seconds = watch.Seconds();
#pragma once

#include <chrono>

#include "kernels/base/clock.h"

namespace attnd::bench {

class Stopwatch {
 public:
  double Seconds() const {
    return std::chrono::duration<double>(Clock::Real().Now() - start_).count();
  }

 private:
  MonotonicTime start_ = Clock::Real().Now();
};

}  // namespace attnd::bench
