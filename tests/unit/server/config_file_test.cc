// SPDX-License-Identifier: Apache-2.0
#include "server/config_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace attnd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

ConfigEntry One(const std::string& text) {
  const ConfigText config = ParseConfig(text);
  EXPECT_THAT(config.errors, IsEmpty()) << config.errors[0].what;
  EXPECT_THAT(config.entries, SizeIs(1));
  return config.entries.empty() ? ConfigEntry{} : config.entries[0];
}

std::string ErrorOf(const std::string& text) {
  const ConfigText config = ParseConfig(text);
  EXPECT_THAT(config.errors, SizeIs(1)) << text;
  return config.errors.empty() ? "" : config.errors[0].what;
}

TEST(ConfigFileTest, AFileThatSetsNothingIsAFile) {
  for (const std::string text :
       {"", "\n", "\r\n", "# all\n\n  ; of it\n\t\n", "\xef\xbb\xbf# with a mark"}) {
    const ConfigText config = ParseConfig(text);
    EXPECT_THAT(config.entries, IsEmpty());
    EXPECT_THAT(config.errors, IsEmpty());
  }
}

TEST(ConfigFileTest, ValuesAreBareOrQuotedAndCommentsEndThem) {
  const std::pair<std::string, std::string> cases[] = {
      {"a = b", "b"},
      {"a=b", "b"},
      {"\ta  =  b c \t", "b c"},
      {"a = b # c", "b"},
      {"a = b#c", "b#c"},
      {"a = b=c", "b=c"},
      {"a = b]", "b]"},
      {"a = \"\"", ""},
      {"a = \"b # c\" # d", "b # c"},
      {"a = \"b \\\"c\\\" \\\\ \\n\"", "b \"c\" \\ \n"},
      {"a = b\r", "b"},
      {"\xef\xbb\xbf"
       "a = b",
       "b"},
      {"a = \xc3\xa9", "\xc3\xa9"},
  };
  for (const auto& [line, value] : cases) {
    const ConfigEntry entry = One(line);
    EXPECT_EQ(entry.key, "a") << line;
    EXPECT_THAT(entry.values, ElementsAre(value)) << line;
    EXPECT_FALSE(entry.is_list);
  }
}

TEST(ConfigFileTest, ListsStandInBrackets) {
  const std::pair<std::string, std::vector<std::string>> cases[] = {
      {"a = []", {}},
      {"a = [b]", {"b"}},
      {"a = [ b , \"c, d]\" ]# e", {"b", "c, d]"}},
      {"a = [\"[::1]:0\", unix:/x,]", {"[::1]:0", "unix:/x"}},
  };
  for (const auto& [line, values] : cases) {
    const ConfigEntry entry = One(line);
    EXPECT_EQ(entry.values, values) << line;
    EXPECT_TRUE(entry.is_list);
  }
}

TEST(ConfigFileTest, EachMistakeIsNamedWithWhatIsExpected) {
  const std::pair<std::string, std::string> cases[] = {
      {"num_threads 3", "\"num_threads 3\" has no \"=\": expected \"name = value\""},
      {"= 3", "\"= 3\" has no name: expected \"name = value\""},
      {"[server]", "a section \"[server]\": there are none"},
      {"a =", "a: no value; an empty one is written \"\""},
      {"a = # b", "a: no value"},
      {"a = 'b'", "a: \"'b'\": quotes are double ones"},
      {"a = b \"c\"", "a: \"b \\\"c\\\"\" has a quote within: put all of it in quotes"},
      {"a = \"b", "a: \"\\\"b\" lacks the closing quote"},
      {"a = \"b\\\"", "lacks the closing quote"},
      {"a = \"b\\", "lacks the closing quote"},
      {"a = \"b\" c", "a: \"c\" behind the value: expected the end of the line or a comment"},
      {"a = \"\\q\"", "a: \"\\q\" has a malformed escape"},
      {"a = \"\\000\"", "a: the value has a NUL byte"},
      {"a = [b", "a: the list \"[b\" lacks its closing bracket; a list stands on one line"},
      {"a = [b, # c", "lacks its closing bracket"},
      {"a = [\"b\" # c", "lacks its closing bracket"},
      {"a = [,]", "a: no value"},
      {"a = [\"b\" \"c\"]", "a: \"\\\"c\\\"]\" in a list: expected a comma or a closing bracket"},
      {"a = [b] c", "a: \"c\" behind the value"},
      {"a = [::1]:7450", "a: \":7450\" behind a list: an IPv6 address is put in quotes"},
      {std::string("a = b\0c", 7), "a control character (0x00) in \"a = b\\000c\": expected text"},
      {"a = \x1b[2J", "a control character (0x1b)"},
      {"a = b\rc", "a control character (0x0d)"},
  };
  for (const auto& [line, message] : cases) {
    EXPECT_THAT(ErrorOf(line), HasSubstr(message)) << line;
  }
}

TEST(ConfigFileTest, ALongLineIsRefusedAndNotRepeated) {
  const std::string longest = "a = " + std::string(kMostConfigLineBytes - 4, 'b');
  EXPECT_EQ(One(longest).values[0].size(), kMostConfigLineBytes - 4);
  EXPECT_EQ(ErrorOf(longest + "b"), "the line has 4097 bytes, at most 4096 may be");
  EXPECT_LT(ErrorOf("a" + std::string(4000, 'b')).size(), 200u);
  EXPECT_LT(ErrorOf("a" + std::string(4000, 'b') + "=").size(), 200u);
}

TEST(ConfigFileTest, ANameIsSetOnce) {
  const ConfigText config = ParseConfig("a = 1\nb = 2\na = 3\n\na = 4\n");
  EXPECT_THAT(config.entries, SizeIs(2));
  ASSERT_THAT(config.errors, SizeIs(2));
  EXPECT_EQ(config.errors[0].line, 3);
  EXPECT_EQ(config.errors[0].what,
            "a: set before, in line 1; expected once (several values stand in brackets)");
  EXPECT_EQ(config.errors[1].line, 5);
}

TEST(ConfigFileTest, ErrorsDoNotHideEachOtherAndCountLines) {
  const ConfigText config = ParseConfig("x\n\r\n# c\ny\na = 1");
  ASSERT_THAT(config.errors, SizeIs(2));
  EXPECT_EQ(config.errors[0].line, 1);
  EXPECT_EQ(config.errors[1].line, 4);
  ASSERT_THAT(config.entries, SizeIs(1));
  EXPECT_EQ(config.entries[0].line, 5);
}

TEST(ConfigFileTest, WhatIsQuotedIsReadBack) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::minstd_rand random(seed);
  for (int i = 0; i < 2000; ++i) {
    std::string value(random() % 20, 'x');
    for (char& c : value) c = static_cast<char>(1 + random() % 255);
    EXPECT_THAT(One("a = " + QuotedValue(value)).values, ElementsAre(value));
    EXPECT_THAT(One("a = [" + QuotedValue(value) + "]").values, ElementsAre(value));
  }
}

TEST(ConfigFileTest, AnyBytesAreReadOrRefused) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::minstd_rand random(seed);
  constexpr char kCharacters[] = "ab=[]\",#\\ \n\r\t\0'\xff";
  for (int i = 0; i < 5000; ++i) {
    std::string text(random() % 40, ' ');
    for (char& c : text) c = kCharacters[random() % (sizeof(kCharacters) - 1)];
    const ConfigText config = ParseConfig(text);
    for (const ConfigEntry& entry : config.entries) {
      EXPECT_FALSE(entry.key.empty());
      EXPECT_TRUE(entry.is_list || entry.values.size() == 1) << text;
    }
    for (const ConfigError& error : config.errors) EXPECT_FALSE(error.what.empty()) << text;
  }
}

}  // namespace
}  // namespace attnd
