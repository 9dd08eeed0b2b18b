// SPDX-License-Identifier: Apache-2.0
#include "server/observe/log_line.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"

namespace attnd {
namespace {

enum class Style {
  kBare,    // text, between spaces
  kQuoted,  // text, between quotes
  kJson,
};

struct Character {
  uint32_t code = 0;
  size_t bytes = 1;
  bool valid = false;
};

// The character at the start of `text`, which is not empty; one invalid byte where there is none.
// Overlong forms, surrogates and what is beyond U+10FFFF are invalid (Unicode, table 3-7).
Character FirstCharacter(absl::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {lead, 1, true};
  const size_t bytes = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < bytes) return {lead, 1, false};
  uint32_t code = lead & (0xffu >> (bytes + 1));
  for (size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {lead, 1, false};
    code = code << 6 | (byte(i) & 0x3f);
  }
  const bool overlong = (bytes == 3 && code < 0x800) || (bytes == 4 && code < 0x10000);
  if (overlong || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return {lead, 1, false};
  return {code, bytes, true};
}

// What ends a line, moves the cursor, or shows text in another order than it has.
bool IsUnsafe(uint32_t code) {
  return code < 0x20 || (code >= 0x7f && code < 0xa0) ||        // C0, DEL and C1 controls
         code == 0x061c || code == 0x200e || code == 0x200f ||  // marks of direction
         (code >= 0x2028 && code <= 0x202e) ||  // separators, embeddings and overrides
         (code >= 0x2066 && code <= 0x2069) || code == 0xfeff;
}

void AppendEscape(const Character& character, Style style, std::string& out) {
  if (!character.valid) {
    if (style == Style::kJson) {
      absl::StrAppend(&out, "\\ufffd");
    } else {
      absl::StrAppendFormat(&out, "\\x%02x", character.code);
    }
    return;
  }
  switch (character.code) {
    case '\n':
      absl::StrAppend(&out, "\\n");
      return;
    case '\r':
      absl::StrAppend(&out, "\\r");
      return;
    case '\t':
      absl::StrAppend(&out, "\\t");
      return;
    default:
      absl::StrAppendFormat(&out, "\\u%04x", character.code);
  }
}

void AppendEscaped(absl::string_view text, Style style, std::string& out) {
  while (!text.empty()) {
    const Character character = FirstCharacter(text);
    const bool quoted = style != Style::kBare;
    if (!character.valid || IsUnsafe(character.code)) {
      AppendEscape(character, style, out);
    } else if (character.code == '\\' || (quoted && character.code == '"')) {
      out += '\\';
      out += text[0];
    } else {
      out.append(text.data(), character.bytes);
    }
    text.remove_prefix(character.bytes);
  }
}

// A value as it is logged: cut between characters where it is too long.
struct Cut {
  absl::string_view kept;
  size_t dropped = 0;
};
Cut CutTo(absl::string_view text, size_t most) {
  if (text.size() <= most) return {text};
  size_t end = most;
  // Not within a character: a continuation byte belongs to the one before, which has at most four.
  for (int i = 0; i < 3 && (static_cast<uint8_t>(text[end]) & 0xc0) == 0x80; ++i) --end;
  return {text.substr(0, end), text.size() - end};
}

void AppendQuoted(absl::string_view text, Style style, std::string& out) {
  const Cut cut = CutTo(text, kMostFieldBytes);
  out += '"';
  AppendEscaped(cut.kept, style, out);
  if (cut.dropped > 0) absl::StrAppend(&out, "... (", cut.dropped, " more bytes)");
  out += '"';
}

// Reads without quotes, and cannot be taken for two fields.
bool IsPlain(absl::string_view text) {
  return !text.empty() && text.size() <= kMostFieldBytes &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return c > ' ' && c < 0x7f && c != '"' && c != '=' && c != '\\';
         });
}

void AppendNumber(double value, std::string& out) {
  // JSON has no others.
  if (!std::isfinite(value)) {
    absl::StrAppend(&out, "null");
  } else {
    absl::StrAppendFormat(&out, "%.15g", value);
  }
}

void AppendValue(const LogValue& value, Style style, std::string& out) {
  std::visit(
      [&](auto v) {
        using T = decltype(v);
        if constexpr (std::is_same_v<T, absl::string_view>) {
          if (style != Style::kJson && IsPlain(v)) {
            out.append(v.data(), v.size());
          } else {
            AppendQuoted(v, style, out);
          }
        } else if constexpr (std::is_same_v<T, bool>) {
          absl::StrAppend(&out, v ? "true" : "false");
        } else if constexpr (std::is_same_v<T, double>) {
          AppendNumber(v, out);
        } else {
          absl::StrAppend(&out, v);
        }
      },
      value);
}

// RFC 3339, UTC, milliseconds.
std::string Time(std::chrono::system_clock::time_point time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::FromChrono(time), absl::UTCTimeZone());
}

}  // namespace

LevelRange AppendTextLine(const LogLine& line, std::string& out) {
  absl::StrAppend(&out, Time(line.time), " ");
  LevelRange range{.begin = out.size()};
  absl::StrAppend(&out, LogLevelName(line.level));
  range.end = out.size();
  out += ' ';
  AppendEscaped(line.message, Style::kBare, out);
  for (const LogField& field : line.fields) {
    absl::StrAppend(&out, " ", field.name, "=");
    AppendValue(field.value, Style::kQuoted, out);
  }
  return range;
}

void AppendJsonLine(const LogLine& line, std::string& out) {
  absl::StrAppend(&out, "{\"ts\":\"", Time(line.time), "\",\"level\":\"", LogLevelName(line.level),
                  "\",\"msg\":\"");
  AppendEscaped(line.message, Style::kJson, out);
  out += '"';
  for (const LogField& field : line.fields) {
    absl::StrAppend(&out, ",\"", field.name, "\":");
    AppendValue(field.value, Style::kJson, out);
  }
  out += '}';
}

}  // namespace attnd
