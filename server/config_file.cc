// SPDX-License-Identifier: Apache-2.0
#include "server/config_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "kernels/base/status_macros.h"

namespace attnd {
namespace {

constexpr absl::string_view kForm = "expected \"name = value\"";

absl::Status Bad(absl::string_view what) { return absl::InvalidArgumentError(what); }

// What may stand behind a value: nothing, or a comment.
absl::Status CheckRest(absl::string_view rest) {
  rest = absl::StripLeadingAsciiWhitespace(rest);
  if (rest.empty() || rest.front() == '#') return absl::OkStatus();
  return Bad(absl::StrCat(ShownValue(rest),
                          " behind the value: expected the end of the line or a "
                          "comment"));
}

// Takes a quoted string from the front of `text`.
absl::StatusOr<std::string> TakeQuoted(absl::string_view& text) {
  size_t end = 1;
  while (end < text.size() && text[end] != '"') end += text[end] == '\\' ? 2 : 1;
  if (end >= text.size()) return Bad(absl::StrCat(ShownValue(text), " lacks the closing quote"));
  std::string value, error;
  if (!absl::CUnescape(text.substr(1, end - 1), &value, &error)) {
    return Bad(absl::StrCat(text.substr(0, std::min<size_t>(end + 1, 80)),
                            " has a malformed escape (", error, "); a backslash is written \\\\"));
  }
  if (value.find('\0') != std::string::npos) return Bad("the value has a NUL byte");
  text.remove_prefix(end + 1);
  return value;
}

// Takes an unquoted value, which ends before any of `ends`.
absl::StatusOr<std::string> TakeBare(absl::string_view& text, absl::string_view ends) {
  size_t end = std::min(text.find_first_of(ends), text.size());
  // A comment begins behind a space; within a word the sign means itself.
  for (size_t at = text.find('#'); at < end; at = text.find('#', at + 1)) {
    if (at == 0 || absl::ascii_isspace(static_cast<unsigned char>(text[at - 1]))) end = at;
  }
  const absl::string_view value = absl::StripAsciiWhitespace(text.substr(0, end));
  if (value.empty()) return Bad("no value; an empty one is written \"\"");
  if (value.front() == '\'') {
    return Bad(absl::StrCat(ShownValue(value), ": quotes are double ones"));
  }
  if (absl::StrContains(value, '"')) {
    return Bad(absl::StrCat(ShownValue(value), " has a quote within: put all of it in quotes"));
  }
  text.remove_prefix(end);
  return std::string(value);
}

absl::StatusOr<std::string> TakeValue(absl::string_view& text, absl::string_view ends) {
  text = absl::StripLeadingAsciiWhitespace(text);
  if (absl::StartsWith(text, "\"")) return TakeQuoted(text);
  return TakeBare(text, ends);
}

// ["a", "b"], with or without quotes.
absl::StatusOr<std::vector<std::string>> TakeList(absl::string_view& text) {
  const absl::string_view whole = text;
  std::vector<std::string> values;
  const auto unclosed = [&] {
    return Bad(absl::StrCat("the list ", ShownValue(whole),
                            " lacks its closing bracket; a list "
                            "stands on one line"));
  };
  for (text.remove_prefix(1);;) {
    text = absl::StripLeadingAsciiWhitespace(text);
    if (text.empty() || text.front() == '#') return unclosed();
    if (absl::ConsumePrefix(&text, "]")) return values;
    ATTND_ASSIGN_OR_RETURN(std::string value, TakeValue(text, ",]"));
    values.push_back(std::move(value));
    text = absl::StripLeadingAsciiWhitespace(text);
    if (text.empty() || text.front() == '#') return unclosed();
    if (!absl::ConsumePrefix(&text, ",") && text.front() != ']') {
      return Bad(
          absl::StrCat(ShownValue(text), " in a list: expected a comma or a closing bracket"));
    }
  }
}

absl::Status ParseValue(absl::string_view text, ConfigEntry& entry) {
  text = absl::StripLeadingAsciiWhitespace(text);
  entry.is_list = absl::StartsWith(text, "[");
  if (entry.is_list) {
    ATTND_ASSIGN_OR_RETURN(entry.values, TakeList(text));
  } else {
    ATTND_ASSIGN_OR_RETURN(std::string value, TakeValue(text, ""));
    entry.values = {std::move(value)};
  }
  if (entry.is_list && absl::StartsWith(text, ":")) {
    return Bad(absl::StrCat(ShownValue(text), " behind a list: an IPv6 address is put in quotes"));
  }
  return CheckRest(text);
}

// Nothing in `entry.key` for a line that sets nothing.
absl::Status ParseLine(absl::string_view line, ConfigEntry& entry) {
  if (line.size() > kMostConfigLineBytes) {
    return Bad(absl::StrCat("the line has ", line.size(), " bytes, at most ", kMostConfigLineBytes,
                            " may be"));
  }
  for (const char c : line) {
    const auto code = static_cast<unsigned char>(c);
    if ((code < 0x20 && c != '\t') || code == 0x7f) {
      return Bad(absl::StrCat("a control character (0x", absl::Hex(code, absl::kZeroPad2), ") in ",
                              ShownValue(line), ": expected text"));
    }
  }
  line = absl::StripAsciiWhitespace(line);
  if (line.empty() || line.front() == '#' || line.front() == ';') return absl::OkStatus();
  const size_t equals = line.find('=');
  if (equals == absl::string_view::npos) {
    if (line.front() == '[') {
      return Bad(absl::StrCat("a section ", ShownValue(line),
                              ": there are none, all options stand at the top"));
    }
    return Bad(absl::StrCat(ShownValue(line), " has no \"=\": ", kForm));
  }
  const absl::string_view key = absl::StripAsciiWhitespace(line.substr(0, equals));
  if (key.empty()) return Bad(absl::StrCat(ShownValue(line), " has no name: ", kForm));
  entry.key = std::string(key);
  absl::Status status = ParseValue(line.substr(equals + 1), entry);
  if (status.ok()) return status;
  return Bad(absl::StrCat(absl::CEscape(key.substr(0, 80)), ": ", status.message()));
}

absl::Status Unreadable(const std::string& path, absl::string_view why) {
  return Bad(absl::StrCat("--config ", ShownValue(path, 200), ": cannot be read: ", why));
}

}  // namespace

ConfigText ParseConfig(absl::string_view text) {
  ConfigText config;
  absl::ConsumePrefix(&text, "\xef\xbb\xbf");  // what some editors put first
  std::map<std::string, int> lines;
  for (int number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    absl::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    absl::ConsumeSuffix(&line, "\r");
    ConfigEntry entry{.line = number, .key = {}, .values = {}};
    absl::Status status = ParseLine(line, entry);
    if (status.ok() && entry.key.empty()) continue;
    if (!entry.key.empty()) {
      const auto [first, is_new] = lines.emplace(entry.key, number);
      if (!is_new) {
        status.Update(
            Bad(absl::StrCat(absl::CEscape(entry.key), ": set before, in line ", first->second,
                             "; expected once (several values stand in brackets)")));
      }
    }
    if (status.ok()) {
      config.entries.push_back(std::move(entry));
    } else {
      config.errors.push_back({.line = number, .what = std::string(status.message())});
    }
  }
  return config;
}

absl::StatusOr<std::string> ReadConfigFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return Unreadable(path, strerror(errno));
  const absl::Cleanup close_fd = [fd] { close(fd); };
  std::string text;
  char buffer[1 << 14];
  for (;;) {
    const ssize_t count = read(fd, buffer, sizeof(buffer));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Unreadable(path, strerror(errno));  // a directory, too
    if (count == 0) return text;
    text.append(buffer, static_cast<size_t>(count));
    if (text.size() > kMostConfigBytes) {
      return Unreadable(path, absl::StrCat("it has more than ", kMostConfigBytes, " bytes"));
    }
  }
}

std::string QuotedValue(absl::string_view value) {
  // C escapes single quotes, too, which nothing here asks for.
  return absl::StrCat("\"", absl::StrReplaceAll(absl::Utf8SafeCEscape(value), {{"\\'", "'"}}),
                      "\"");
}

std::string ShownValue(absl::string_view value, size_t most_bytes) {
  if (value.size() <= most_bytes) return QuotedValue(value);
  return absl::StrCat(QuotedValue(value.substr(0, most_bytes)), "...");
}

}  // namespace attnd
