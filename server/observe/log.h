// SPDX-License-Identifier: Apache-2.0
//
// The daemon's log: structured lines on standard error, as text or as JSON, and one line a call.
//
// spdlog is the library below; what calls spdlog::info() itself gets the same lines, without
// fields. A line cannot be forged: control characters, line ends, bytes that are not UTF-8 and
// characters that reorder text are escaped in the message and in every field, and long fields are
// cut (log_line.h). No secret belongs into a field: nothing is hidden here.
//
// Thread-safe after SetUpLogging, which is called once, before other threads start. A level that
// is off costs an atomic load.
//
//   SetUpLogging(LogFormat::kJson, LogLevel::kInfo);
//   Log(LogLevel::kInfo, "attnd starts", {{"version", Version()}, {"pid", int64_t{getpid()}}});
//   LogCall({.method = "Attend", .request_id = id, .tenant = "chat", .code = status.code(),
//            .message = status.message(), .duration = now - started});
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/base/clock.h"

namespace spdlog::sinks {
class sink;
}

namespace attnd {

enum class LogFormat { kText, kJson };
enum class LogLevel { kTrace, kDebug, kInfo, kWarning, kError };

inline constexpr absl::string_view kLogFormatNames[] = {"text", "json"};
inline constexpr absl::string_view kLogLevelNames[] = {"trace", "debug", "info", "warning",
                                                       "error"};

// By name; INVALID_ARGUMENT lists the names.
absl::StatusOr<LogFormat> ParseLogFormat(absl::string_view name);
absl::StatusOr<LogLevel> ParseLogLevel(absl::string_view name);
absl::string_view LogLevelName(LogLevel level);

// Lines go to standard error, coloured where that is a terminal and the format is text; tests give
// a sink of their own.
void SetUpLogging(LogFormat format, LogLevel level,
                  std::shared_ptr<spdlog::sinks::sink> sink = nullptr);

// From now on, for every thread; returns the former.
LogLevel SetLogLevel(LogLevel level);
LogLevel CurrentLogLevel();
bool LogIsOn(LogLevel level);

// A number stays one in JSON. Strings are borrowed for the call.
using LogValue = std::variant<absl::string_view, int64_t, double, bool>;
struct LogField {
  absl::string_view name;  // one of ours, never a client's
  LogValue value;
};

void Log(LogLevel level, absl::string_view message, std::initializer_list<LogField> fields = {});

// ------------------------------------------------------------------------------------- calls

// A call that has ended. Strings are borrowed for the call.
struct CallRecord {
  absl::string_view method = {};  // "Attend"
  absl::string_view request_id = {};
  absl::string_view tenant = {};  // "" where there is but one
  absl::StatusCode code = absl::StatusCode::kOk;
  absl::string_view message = {};  // of the status; may quote what the client sent
  Duration duration{};
};

// OK and the client's own errors at debug, RESOURCE_EXHAUSTED and UNAVAILABLE at warning, INTERNAL,
// DATA_LOSS and UNKNOWN at error. Of warnings and of errors at most kMostCallLines are written in
// kCallLineInterval each; how many were not is said in a line of its own when the interval is over.
void LogCall(const CallRecord& call);
LogLevel CallLevel(absl::StatusCode code);
inline constexpr int64_t kMostCallLines = 50;
inline constexpr Duration kCallLineInterval = std::chrono::seconds(10);

// Writes how many lines of calls were suppressed, where an interval has ended since (or at once,
// with `now`: at exit). LogCall does so by itself; this is for when no call comes any more.
void LogSuppressedCalls(bool now = false);

// The client's own id (metadata x-request-id) where it is 1 to 64 characters of [A-Za-z0-9._-],
// else a new one: a random prefix of this process and a count, "5f0c81d2-1a".
inline constexpr char kRequestIdKey[] = "x-request-id";
std::string RequestIdOf(std::optional<absl::string_view> from_client);

}  // namespace attnd
