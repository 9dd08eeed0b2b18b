// SPDX-License-Identifier: Apache-2.0
#include "server/observe/log_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

namespace attnd {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// 2026-11-23T09:00:00.123Z
constexpr std::chrono::system_clock::time_point kTime(std::chrono::milliseconds(1795424400123));

std::string Text(absl::string_view message, std::vector<LogField> fields = {}) {
  std::string out;
  AppendTextLine({.time = kTime, .level = LogLevel::kWarning, .message = message, .fields = fields},
                 out);
  return out;
}

std::string Json(absl::string_view message, std::vector<LogField> fields = {}) {
  std::string out;
  AppendJsonLine({.time = kTime, .level = LogLevel::kWarning, .message = message, .fields = fields},
                 out);
  return out;
}

std::string TextOf(absl::string_view value) { return Text("call", {{"message", value}}); }
std::string JsonOf(absl::string_view value) { return Json("call", {{"message", value}}); }

TEST(LogLineTest, TextHasTimeLevelMessageAndFields) {
  EXPECT_EQ(Text("call", {{"method", "Attend"},
                          {"tenant", ""},
                          {"ms", 1.5},
                          {"n", int64_t{-3}},
                          {"ok", true},
                          {"message", "queue is full"}}),
            "2026-11-23T09:00:00.123Z warning call method=Attend tenant=\"\" ms=1.5 n=-3 ok=true "
            "message=\"queue is full\"");
}

TEST(LogLineTest, JsonIsOneObjectWithTypedFields) {
  const std::string line =
      Json("call", {{"method", "Attend"}, {"ms", 1.5}, {"n", int64_t{-3}}, {"ok", false}});
  EXPECT_EQ(line,
            "{\"ts\":\"2026-11-23T09:00:00.123Z\",\"level\":\"warning\",\"msg\":\"call\","
            "\"method\":\"Attend\",\"ms\":1.5,\"n\":-3,\"ok\":false}");
}

TEST(LogLineTest, NumbersThatJsonHasNotAreNull) {
  for (const double value : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    EXPECT_TRUE(nlohmann::json::parse(Json("m", {{"v", value}}))["v"].is_null());
  }
}

TEST(LogLineTest, TheLevelIsWhereTheRangeSays) {
  std::string out = "before ";
  const LevelRange range =
      AppendTextLine({.time = kTime, .level = LogLevel::kError, .message = "m"}, out);
  EXPECT_EQ(out.substr(range.begin, range.end - range.begin), "error");
}

TEST(LogLineTest, AStringOfAClientForgesNoLineAndNoField) {
  EXPECT_THAT(TextOf("a\n2026-11-23T09:00:00.000Z error forged"),
              HasSubstr("message=\"a\\n2026-11-23T09:00:00.000Z error forged\""));
  EXPECT_THAT(TextOf("x\" code=OK \""), HasSubstr("message=\"x\\\" code=OK \\\"\""));
  EXPECT_THAT(TextOf("code=OK"), HasSubstr("message=\"code=OK\""));
  EXPECT_THAT(TextOf("a\\n"), HasSubstr("message=\"a\\\\n\""));
  EXPECT_THAT(JsonOf("x\",\"code\":\"OK"), HasSubstr("\"message\":\"x\\\",\\\"code\\\":\\\"OK\"}"));
  EXPECT_THAT(Text("a\r\nb\tc"), HasSubstr("a\\r\\nb\\tc"));
}

TEST(LogLineTest, WhatMovesTheCursorOrReordersTextIsEscaped) {
  const std::pair<std::string, std::string> cases[] = {
      {std::string(1, '\0'), "\\u0000"},
      {"\x1b[2J", "\\u001b[2J"},
      {"\x7f", "\\u007f"},
      {"\xc2\x9b"
       "2J",
       "\\u009b2J"},                // CSI as one character
      {"\xe2\x80\xa8", "\\u2028"},  // line separator
      {"\xe2\x80\xae"
       "cod",
       "\\u202ecod"},               // right-to-left override
      {"\xe2\x81\xa6", "\\u2066"},  // isolate
      {"\xef\xbb\xbf", "\\ufeff"},
  };
  for (const auto& [value, shown] : cases) {
    EXPECT_THAT(TextOf(value), HasSubstr("message=\"" + shown + "\""));
    EXPECT_THAT(JsonOf(value), HasSubstr("\"message\":\"" + shown + "\""));
    EXPECT_EQ(nlohmann::json::parse(JsonOf(value))["message"], value);
  }
}

TEST(LogLineTest, PrintableTextOfEveryLengthStaysAsItIs) {
  for (const std::string value : {"é", "語", "𝄞", "naïve 語 𝄞"}) {
    EXPECT_THAT(TextOf(value), HasSubstr("message=\"" + value + "\""));
    EXPECT_EQ(nlohmann::json::parse(JsonOf(value))["message"], value);
    EXPECT_THAT(JsonOf(value), HasSubstr(value));
  }
}

TEST(LogLineTest, BytesThatAreNotUtf8AreShownAsSuch) {
  const std::pair<std::string, std::string> cases[] = {
      {"\xff", "\\xff"},
      {"\x80", "\\x80"},
      {"a\xc3", "a\\xc3"},                           // cut short
      {"\xc0\xaf", "\\xc0\\xaf"},                    // overlong
      {"\xe0\x80\xaf", "\\xe0\\x80\\xaf"},           // overlong
      {"\xf0\x80\x80\xaf", "\\xf0\\x80\\x80\\xaf"},  // overlong
      {"\xed\xa0\x80", "\\xed\\xa0\\x80"},           // a surrogate
      {"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"},  // beyond U+10FFFF
      {"\xc3\x28", "\\xc3("},
  };
  for (const auto& [value, shown] : cases) {
    EXPECT_THAT(TextOf(value), HasSubstr("message=\"" + shown + "\""));
    // Throws, and so fails, where the line is not JSON in UTF-8.
    EXPECT_THAT(nlohmann::json::parse(JsonOf(value))["message"].get<std::string>(),
                HasSubstr("\xef\xbf\xbd"));
  }
}

TEST(LogLineTest, LongFieldsAreCutBetweenCharacters) {
  std::string value(kMostFieldBytes - 1, 'a');
  value += "語tail";
  const std::string expected = std::string(kMostFieldBytes - 1, 'a') + "... (7 more bytes)";
  EXPECT_EQ(nlohmann::json::parse(JsonOf(value))["message"], expected);
  EXPECT_THAT(TextOf(value), HasSubstr("message=\"" + expected + "\""));
  // Not only what needs quotes.
  EXPECT_LT(TextOf(std::string(1 << 20, 'a')).size(), 2 * kMostFieldBytes);
  // Nothing but continuation bytes.
  EXPECT_LT(TextOf(std::string(1 << 20, '\x80')).size(), 5 * kMostFieldBytes);
}

TEST(LogLineTest, AnyBytesMakeOneParsableLine) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::minstd_rand random(seed);
  for (int i = 0; i < 2000; ++i) {
    std::string value(random() % 40, '\0');
    for (char& c : value) c = static_cast<char>(random());
    const std::string json = JsonOf(value);
    const nlohmann::json parsed = nlohmann::json::parse(json);
    EXPECT_EQ(parsed.size(), 4u) << json;
    for (const std::string& line : {json, TextOf(value), Text(value)}) {
      for (const char c : line) {
        ASSERT_TRUE(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f) << line;
      }
    }
  }
}

}  // namespace
}  // namespace attnd
