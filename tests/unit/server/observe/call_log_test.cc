// SPDX-License-Identifier: Apache-2.0
#include "server/observe/call_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "tests/fakes/fake_clock.h"
#include "tests/unit/server/observe/captured_log.h"

namespace attnd {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;
using ::testing::SizeIs;
using Code = absl::StatusCode;

TEST(CallLogTest, ACallIsOneLineWithItsFields) {
  const CapturedLog log(LogFormat::kJson, LogLevel::kInfo);
  LogCall({.method = "Attend",
           .request_id = "r-1",
           .tenant = "chat",
           .code = Code::kInternal,
           .message = "device lost\n{\"msg\":\"forged\"}",
           .duration = std::chrono::microseconds(1500)});
  ASSERT_THAT(log.lines(), SizeIs(1));
  nlohmann::json line = nlohmann::json::parse(log.lines()[0]);
  line.erase("ts");
  EXPECT_EQ(line, nlohmann::json({{"level", "error"},
                                  {"msg", "call"},
                                  {"method", "Attend"},
                                  {"request_id", "r-1"},
                                  {"tenant", "chat"},
                                  {"code", "INTERNAL"},
                                  {"duration_ms", 1.5},
                                  {"message", "device lost\n{\"msg\":\"forged\"}"}}));
}

TEST(CallLogTest, TheCodeDecidesTheLevel) {
  for (const Code code : {Code::kOk, Code::kInvalidArgument, Code::kNotFound, Code::kCancelled,
                          Code::kDeadlineExceeded, Code::kUnauthenticated, Code::kAborted}) {
    EXPECT_EQ(CallLevel(code), LogLevel::kDebug) << code;
  }
  EXPECT_EQ(CallLevel(Code::kResourceExhausted), LogLevel::kWarning);
  EXPECT_EQ(CallLevel(Code::kUnavailable), LogLevel::kWarning);
  for (const Code code : {Code::kInternal, Code::kDataLoss, Code::kUnknown}) {
    EXPECT_EQ(CallLevel(code), LogLevel::kError) << code;
  }
}

TEST(CallLogTest, WhatIsOffIsNotWrittenAndTakesNoBudget) {
  const CapturedLog log(LogFormat::kText, LogLevel::kError);
  FakeClock clock;
  CallLog calls(clock, {.most_lines = 1});
  calls.Record({.method = "Attend"});
  for (int i = 0; i < 5; ++i) calls.Record({.method = "Attend", .code = Code::kUnavailable});
  calls.ReportSuppressed(/*now=*/true);
  EXPECT_THAT(log.text(), IsEmpty());
}

TEST(CallLogTest, SuccessIsSeenAtDebugWithoutLimit) {
  const CapturedLog log(LogFormat::kText, LogLevel::kDebug);
  FakeClock clock;
  CallLog calls(clock, {.most_lines = 1});
  for (int i = 0; i < 5; ++i) calls.Record({.method = "Attend", .request_id = "a"});
  EXPECT_THAT(log.lines(), SizeIs(5));
  EXPECT_THAT(log.lines()[0],
              EndsWith("debug call method=Attend request_id=a tenant=\"\" code=OK duration_ms=0"));
}

TEST(CallLogTest, AFloodIsCutAndCounted) {
  const CapturedLog log(LogFormat::kText, LogLevel::kInfo);
  FakeClock clock;
  CallLog calls(clock, {.most_lines = 3, .interval = std::chrono::seconds(10)});
  for (int i = 0; i < 100; ++i) calls.Record({.method = "Attend", .code = Code::kUnavailable});
  EXPECT_THAT(log.lines(), SizeIs(3));
  // Errors have lines of their own.
  calls.Record({.method = "Attend", .code = Code::kInternal});
  EXPECT_THAT(log.lines(), SizeIs(4));
  clock.Advance(std::chrono::seconds(10) - Duration(1));
  calls.ReportSuppressed(/*now=*/false);
  EXPECT_THAT(log.lines(), SizeIs(4)) << "the interval is not over";
  clock.Advance(Duration(1));
  calls.Record({.method = "Attend", .code = Code::kUnavailable});
  ASSERT_THAT(log.lines(), SizeIs(6));
  EXPECT_THAT(log.lines()[4], EndsWith("warning calls not logged: too many suppressed=97"));
  EXPECT_THAT(log.lines()[5], HasSubstr("code=UNAVAILABLE"));
}

TEST(CallLogTest, WhatWasSuppressedIsSaidThoughNoCallComesAnyMore) {
  const CapturedLog log(LogFormat::kText, LogLevel::kInfo);
  FakeClock clock;
  CallLog calls(clock, {.most_lines = 1, .interval = std::chrono::seconds(10)});
  calls.ReportSuppressed(/*now=*/true);
  EXPECT_THAT(log.text(), IsEmpty()) << "nothing was";
  for (int i = 0; i < 3; ++i) calls.Record({.method = "Attend", .code = Code::kDataLoss});
  clock.Advance(std::chrono::seconds(10));
  calls.ReportSuppressed(/*now=*/false);
  ASSERT_THAT(log.lines(), SizeIs(2));
  EXPECT_THAT(log.lines()[1], EndsWith("error calls not logged: too many suppressed=2"));
  calls.ReportSuppressed(/*now=*/true);
  EXPECT_THAT(log.lines(), SizeIs(2)) << "said once";
  // At exit, in the midst of an interval.
  for (int i = 0; i < 2; ++i) calls.Record({.method = "Attend", .code = Code::kUnavailable});
  calls.ReportSuppressed(/*now=*/true);
  EXPECT_THAT(log.lines()[3], EndsWith("suppressed=1"));
}

TEST(RequestIdTest, AValidIdOfTheClientIsKept) {
  const std::string longest(64, 'a');
  for (const std::string id : {"a", "A.b_c-9", longest.c_str()}) EXPECT_EQ(RequestIdOf(id), id);
}

TEST(RequestIdTest, AnInvalidOneIsReplaced) {
  const std::string too_long(65, 'a');
  const std::string with_nul("a\0b", 3);
  for (const std::string& id :
       {std::string(), too_long, with_nul, std::string("a b"), std::string("a\nb"),
        std::string("a\"b"), std::string("\xc3\xa9"), std::string("a/b")}) {
    const std::string made = RequestIdOf(id);
    EXPECT_NE(made, id);
    EXPECT_THAT(made, MatchesRegex("[0-9a-f]+-[0-9a-f]+"));
  }
}

TEST(RequestIdTest, GeneratedIdsDifferAndShareThePrefixOfTheProcess) {
  std::set<std::string> ids;
  const std::string first = RequestIdOf(std::nullopt);
  for (int i = 0; i < 1000; ++i) {
    ids.insert(RequestIdOf(std::nullopt));
    EXPECT_EQ(ids.rbegin()->substr(0, 9), first.substr(0, 9));
  }
  EXPECT_THAT(ids, SizeIs(1000));
  // What we made is what we take.
  EXPECT_EQ(RequestIdOf(first), first);
}

}  // namespace
}  // namespace attnd
