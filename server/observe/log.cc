// SPDX-License-Identifier: Apache-2.0
#include "server/observe/log.h"

#include <iterator>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/observe/log_line.h"
#include "spdlog/formatter.h"
#include "spdlog/sinks/stdout_color_sinks.h"
#include "spdlog/spdlog.h"

namespace attnd {
namespace {

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kTrace:
      return spdlog::level::trace;
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      break;
  }
  return spdlog::level::err;
}

LogLevel FromSpdlog(spdlog::level::level_enum level) {
  switch (level) {
    case spdlog::level::trace:
      return LogLevel::kTrace;
    case spdlog::level::debug:
      return LogLevel::kDebug;
    case spdlog::level::info:
      return LogLevel::kInfo;
    case spdlog::level::warn:
      return LogLevel::kWarning;
    default:
      return LogLevel::kError;
  }
}

// The fields of the line that this thread logs just now. spdlog has no place for them, and its
// synchronous loggers format on the thread that logs.
thread_local std::span<const LogField> g_fields;

class LineFormatter final : public spdlog::formatter {
 public:
  explicit LineFormatter(LogFormat format) : format_(format) {}

  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    const LogLine line{.time = message.time,
                       .level = FromSpdlog(message.level),
                       .message = {message.payload.data(), message.payload.size()},
                       .fields = g_fields};
    std::string text;
    if (format_ == LogFormat::kJson) {
      AppendJsonLine(line, text);
    } else {
      const LevelRange level = AppendTextLine(line, text);
      message.color_range_start = level.begin;
      message.color_range_end = level.end;
    }
    text += '\n';
    out.append(text.data(), text.data() + text.size());
  }

  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<LineFormatter>(format_);
  }

 private:
  const LogFormat format_;
};

// The place of `name` in `names`, as an enum of that order.
template <typename Enum, size_t kCount>
absl::StatusOr<Enum> ParseName(absl::string_view what, absl::string_view name,
                               const absl::string_view (&names)[kCount]) {
  for (size_t i = 0; i < kCount; ++i) {
    if (names[i] == name) return static_cast<Enum>(i);
  }
  return absl::InvalidArgumentError(
      absl::StrCat(what, " \"", name, "\": expected one of ", absl::StrJoin(names, ", ")));
}

}  // namespace

absl::StatusOr<LogFormat> ParseLogFormat(absl::string_view name) {
  return ParseName<LogFormat>("log format", name, kLogFormatNames);
}

absl::StatusOr<LogLevel> ParseLogLevel(absl::string_view name) {
  return ParseName<LogLevel>("log level", name, kLogLevelNames);
}

absl::string_view LogLevelName(LogLevel level) { return kLogLevelNames[static_cast<int>(level)]; }

void SetUpLogging(LogFormat format, LogLevel level, std::shared_ptr<spdlog::sinks::sink> sink) {
  if (sink == nullptr) {
    sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>(
        format == LogFormat::kJson ? spdlog::color_mode::never : spdlog::color_mode::automatic);
  }
  auto logger = std::make_shared<spdlog::logger>("attnd", std::move(sink));
  logger->set_formatter(std::make_unique<LineFormatter>(format));
  logger->set_level(ToSpdlog(level));
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

LogLevel SetLogLevel(LogLevel level) {
  spdlog::logger& logger = *spdlog::default_logger_raw();
  const LogLevel former = FromSpdlog(logger.level());
  logger.set_level(ToSpdlog(level));
  return former;
}

LogLevel CurrentLogLevel() { return FromSpdlog(spdlog::default_logger_raw()->level()); }

bool LogIsOn(LogLevel level) { return spdlog::default_logger_raw()->should_log(ToSpdlog(level)); }

void Log(LogLevel level, absl::string_view message, std::initializer_list<LogField> fields) {
  if (!LogIsOn(level)) return;
  g_fields = {std::data(fields), fields.size()};
  spdlog::default_logger_raw()->log(ToSpdlog(level),
                                    spdlog::string_view_t(message.data(), message.size()));
  g_fields = {};
}

}  // namespace attnd
