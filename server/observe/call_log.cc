// SPDX-License-Identifier: Apache-2.0
#include "server/observe/call_log.h"

#include <algorithm>
#include <random>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"

namespace attnd {
namespace {

void WriteCall(LogLevel level, const CallRecord& call) {
  const double duration_ms = std::chrono::duration<double, std::milli>(call.duration).count();
  const std::string code = absl::StatusCodeToString(call.code);
  if (call.message.empty()) {
    Log(level, "call",
        {{"method", call.method},
         {"request_id", call.request_id},
         {"tenant", call.tenant},
         {"code", absl::string_view(code)},
         {"duration_ms", duration_ms}});
    return;
  }
  Log(level, "call",
      {{"method", call.method},
       {"request_id", call.request_id},
       {"tenant", call.tenant},
       {"code", absl::string_view(code)},
       {"duration_ms", duration_ms},
       {"message", call.message}});
}

void WriteSuppressed(LogLevel level, int64_t count) {
  if (count > 0) Log(level, "calls not logged: too many", {{"suppressed", count}});
}

bool IsRequestId(absl::string_view text) {
  constexpr size_t kMostCharacters = 64;
  return !text.empty() && text.size() <= kMostCharacters &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' ||
                  c == '-';
         });
}

// Of the process; never destroyed, since calls may end after main.
CallLog& ProcessCallLog() {
  static CallLog& log = *new CallLog(Clock::Real(), {});
  return log;
}

}  // namespace

void CallLog::Record(const CallRecord& call) {
  const LogLevel level = CallLevel(call.code);
  if (!LogIsOn(level)) return;
  if (level == LogLevel::kWarning && !Take(warnings_)) return;
  if (level == LogLevel::kError && !Take(errors_)) return;
  WriteCall(level, call);
}

bool CallLog::Take(Budget& budget) {
  int64_t suppressed = 0;
  bool taken = false;
  {
    MutexLock lock(budget.mu);
    const MonotonicTime now = clock_.Now();
    // From the start of time, `now - began` would overflow.
    if (budget.interval_began == MonotonicTime::min() ||
        now - budget.interval_began >= options_.interval) {
      budget.interval_began = now;
      budget.lines = 0;
      suppressed = budget.suppressed.exchange(0, std::memory_order_relaxed);
    }
    taken = budget.lines < options_.most_lines;
    if (taken) {
      ++budget.lines;
    } else {
      budget.suppressed.fetch_add(1, std::memory_order_relaxed);
    }
  }
  WriteSuppressed(budget.level, suppressed);
  return taken;
}

void CallLog::ReportSuppressed(bool now) {
  Report(warnings_, now);
  Report(errors_, now);
}

void CallLog::Report(Budget& budget, bool now) {
  if (budget.suppressed.load(std::memory_order_relaxed) == 0) return;
  int64_t suppressed = 0;
  {
    MutexLock lock(budget.mu);
    if (!now && clock_.Now() - budget.interval_began < options_.interval) return;
    suppressed = budget.suppressed.exchange(0, std::memory_order_relaxed);
  }
  WriteSuppressed(budget.level, suppressed);
}

LogLevel CallLevel(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kUnavailable:
      return LogLevel::kWarning;
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kUnknown:
      return LogLevel::kError;
    default:
      return LogLevel::kDebug;
  }
}

void LogCall(const CallRecord& call) { ProcessCallLog().Record(call); }

void LogSuppressedCalls(bool now) { ProcessCallLog().ReportSuppressed(now); }

std::string RequestIdOf(std::optional<absl::string_view> from_client) {
  if (from_client && IsRequestId(*from_client)) return std::string(*from_client);
  static const uint32_t prefix = std::random_device()();
  static std::atomic<uint64_t> count = 0;
  return absl::StrFormat("%08x-%x", prefix, count.fetch_add(1, std::memory_order_relaxed) + 1);
}

}  // namespace attnd
