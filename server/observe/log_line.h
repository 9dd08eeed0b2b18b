// SPDX-License-Identifier: Apache-2.0
//
// How a line of the log looks, as text and as JSON. Pure functions, safe from any thread.
//
//   2026-11-23T09:00:00.123Z warning call method=Attend code=UNAVAILABLE message="queue is full"
//   {"ts":"2026-11-23T09:00:00.123Z","level":"warning","msg":"call","method":"Attend",...}
//
// Whatever the strings hold, the outcome is one line of valid UTF-8, and in JSON one object: what
// is not printable is escaped, and so are the characters that reorder text on a screen. A line
// carries no end of line of its own.
//
//   std::string line;
//   AppendJsonLine({.time = now, .level = LogLevel::kInfo, .message = "drained"}, line);
#pragma once

#include <chrono>
#include <span>
#include <string>

#include "absl/strings/string_view.h"
#include "server/observe/log.h"

namespace attnd {

// A field's value is cut here; the message is not, being ours.
inline constexpr size_t kMostFieldBytes = 1024;

struct LogLine {
  std::chrono::system_clock::time_point time;
  LogLevel level = LogLevel::kInfo;
  absl::string_view message = {};
  std::span<const LogField> fields = {};
};

// Where the level's name lies in the text, for a terminal's colour.
struct LevelRange {
  size_t begin = 0, end = 0;
};
LevelRange AppendTextLine(const LogLine& line, std::string& out);
void AppendJsonLine(const LogLine& line, std::string& out);

}  // namespace attnd
