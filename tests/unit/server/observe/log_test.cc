// SPDX-License-Identifier: Apache-2.0
#include "server/observe/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "spdlog/spdlog.h"
#include "tests/unit/server/observe/captured_log.h"

namespace attnd {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;
using ::testing::SizeIs;

TEST(LogTest, EachLineOfJsonIsAnObject) {
  const CapturedLog log(LogFormat::kJson, LogLevel::kInfo);
  Log(LogLevel::kInfo, "attnd starts", {{"version", "1.2.3"}, {"pid", int64_t{42}}});
  spdlog::warn("plain \"{}\"\n", "text");
  ASSERT_THAT(log.lines(), SizeIs(2));
  const nlohmann::json first = nlohmann::json::parse(log.lines()[0]);
  EXPECT_THAT(first["ts"].get<std::string>(), MatchesRegex("....-..-..T..:..:..[.]...Z"));
  EXPECT_EQ(first["level"], "info");
  EXPECT_EQ(first["msg"], "attnd starts");
  EXPECT_EQ(first["version"], "1.2.3");
  EXPECT_EQ(first["pid"], 42);
  const nlohmann::json second = nlohmann::json::parse(log.lines()[1]);
  EXPECT_EQ(second["level"], "warning");
  EXPECT_EQ(second["msg"], "plain \"text\"\n");
  EXPECT_THAT(second, SizeIs(3)) << "the fields of the line before it: " << second;
}

TEST(LogTest, TextIsOneLineEach) {
  const CapturedLog log(LogFormat::kText, LogLevel::kInfo);
  spdlog::error("two\nlines");
  Log(LogLevel::kInfo, "drained", {{"items", int64_t{0}}});
  ASSERT_THAT(log.lines(), SizeIs(2));
  EXPECT_THAT(log.lines()[0], EndsWith("Z error two\\nlines"));
  EXPECT_THAT(log.lines()[1], EndsWith("Z info drained items=0"));
}

TEST(LogTest, TheLevelCanBeChangedWhileItRuns) {
  const CapturedLog log(LogFormat::kText, LogLevel::kInfo);
  EXPECT_FALSE(LogIsOn(LogLevel::kDebug));
  Log(LogLevel::kDebug, "unseen");
  EXPECT_THAT(log.text(), IsEmpty());
  EXPECT_EQ(SetLogLevel(LogLevel::kDebug), LogLevel::kInfo);
  EXPECT_TRUE(LogIsOn(LogLevel::kDebug));
  Log(LogLevel::kDebug, "seen");
  EXPECT_THAT(log.text(), HasSubstr("debug seen"));
  EXPECT_EQ(SetLogLevel(LogLevel::kError), LogLevel::kDebug);
  Log(LogLevel::kWarning, "unseen");
  EXPECT_THAT(log.lines(), SizeIs(1));
}

TEST(LogTest, EveryLevelComesBackAsItWasSet) {
  const CapturedLog log(LogFormat::kText, LogLevel::kInfo);
  for (const absl::string_view name : kLogLevelNames) {
    const absl::StatusOr<LogLevel> level = ParseLogLevel(name);
    ASSERT_TRUE(level.ok());
    EXPECT_EQ(LogLevelName(*level), name);
    SetLogLevel(*level);
    EXPECT_EQ(SetLogLevel(LogLevel::kInfo), *level);
  }
}

TEST(LogTest, UnknownNamesListTheKnown) {
  EXPECT_THAT(ParseLogLevel("loud").status().message(),
              AllOf(HasSubstr("\"loud\""), HasSubstr("trace, debug, info, warning, error")));
  EXPECT_THAT(ParseLogLevel("INFO").status().message(), HasSubstr("\"INFO\""));
  EXPECT_FALSE(ParseLogLevel("").ok());
  EXPECT_THAT(ParseLogFormat("xml").status().message(),
              AllOf(HasSubstr("\"xml\""), HasSubstr("text, json")));
}

// TSan and the parser look on.
TEST(LogTest, ThreadsDoNotMixTheirFields) {
  const CapturedLog log(LogFormat::kJson, LogLevel::kInfo);
  constexpr int kThreads = 4, kLines = 200;
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([t] {
      const std::string name = std::to_string(t);
      for (int i = 0; i < kLines; ++i) {
        Log(LogLevel::kInfo, name, {{"thread", absl::string_view(name)}});
        if (t == 0) SetLogLevel(LogLevel::kInfo);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_THAT(log.lines(), SizeIs(kThreads * kLines));
  for (const std::string& line : log.lines()) {
    const nlohmann::json parsed = nlohmann::json::parse(line);
    EXPECT_EQ(parsed["msg"], parsed["thread"]);
  }
}

}  // namespace
}  // namespace attnd
