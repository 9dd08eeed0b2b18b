// SPDX-License-Identifier: Apache-2.0
//
// What the daemon's log would write to standard error, for a test to read. While it lives, it is
// the process's log.
//
//   CapturedLog log(LogFormat::kJson, LogLevel::kDebug);
//   LogCall({.method = "Attend"});
//   EXPECT_THAT(log.lines(), SizeIs(1));
#pragma once

#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "server/observe/log.h"
#include "spdlog/sinks/ostream_sink.h"

namespace attnd {

class CapturedLog {
 public:
  CapturedLog(LogFormat format, LogLevel level) {
    SetUpLogging(format, level, std::make_shared<spdlog::sinks::ostream_sink_mt>(text_));
  }
  ~CapturedLog() { SetUpLogging(LogFormat::kText, LogLevel::kInfo); }
  CapturedLog(const CapturedLog&) = delete;
  CapturedLog& operator=(const CapturedLog&) = delete;

  std::string text() const { return text_.str(); }
  std::vector<std::string> lines() const { return absl::StrSplit(text(), '\n', absl::SkipEmpty()); }

 private:
  std::ostringstream text_;
};

}  // namespace attnd
