// SPDX-License-Identifier: Apache-2.0
//
// What LogCall (log.h) does, with a clock and limits of the caller's choice: which level a call
// has, and how many lines of a flood are written.
//
// Warnings and errors are budgeted apart, so that a client that is refused a thousand times a
// second hides no INTERNAL. Thread-safe; a call whose level is off takes no lock.
//
//   CallLog calls(Clock::Real(), {.most_lines = 50, .interval = std::chrono::seconds(10)});
//   calls.Record({.method = "Attend", .code = absl::StatusCode::kUnavailable});
#pragma once

#include <atomic>
#include <cstdint>

#include "kernels/base/clock.h"
#include "kernels/base/mutex.h"
#include "server/observe/log.h"

namespace attnd {

class CallLog {
 public:
  struct Options {
    int64_t most_lines = kMostCallLines;
    Duration interval = kCallLineInterval;
  };
  CallLog(const Clock& clock, const Options& options) : clock_(clock), options_(options) {}

  void Record(const CallRecord& call);
  // Says what was suppressed in intervals that are over, or with `now` in this one, too.
  void ReportSuppressed(bool now);

 private:
  // The lines of one level.
  struct Budget {
    explicit Budget(LogLevel of) : level(of) {}
    const LogLevel level;
    Mutex mu;
    MonotonicTime interval_began ABSL_GUARDED_BY(mu) = MonotonicTime::min();
    int64_t lines ABSL_GUARDED_BY(mu) = 0;
    // Written under mu; read without it to see whether there is anything to report.
    std::atomic<int64_t> suppressed = 0;
  };

  // Whether one more line may be written; says first what the interval before had too many of.
  bool Take(Budget& budget) ABSL_LOCKS_EXCLUDED(budget.mu);
  void Report(Budget& budget, bool now) ABSL_LOCKS_EXCLUDED(budget.mu);

  const Clock& clock_;
  const Options options_;
  Budget warnings_{LogLevel::kWarning};
  Budget errors_{LogLevel::kError};
};

}  // namespace attnd
