// SPDX-License-Identifier: Apache-2.0
//
// The types that an option's value may have: how each is read, written, described and limited.
//
// Pure functions, safe from any thread.
//
//   Bytes pool;
//   std::string wrong = ParseInto("8GiB", Range<Bytes>{kSuperblockBytes, kMost}, pool);  // ""
#pragma once

#include <charconv>
#include <concepts>
#include <optional>
#include <string>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/base/clock.h"
#include "kernels/base/units.h"
#include "server/base/option_text.h"

namespace attnd {

template <typename T>
struct Range {
  T least, most;
  bool or_zero = false;  // which then has a meaning of its own

  // False for a value that is not a number.
  bool Holds(T value) const {
    return (or_zero && value == T{}) || (least <= value && value <= most);
  }
};

// False where it is malformed; `value` is then untouched.
inline bool ParseOption(absl::string_view text, Bytes& value) {
  const std::optional<Bytes> bytes = ParseBytes(text);
  if (bytes) value = *bytes;
  return bytes.has_value();
}
inline bool ParseOption(absl::string_view text, Duration& value) {
  const std::optional<Duration> duration = ParseDuration(text);
  if (duration) value = *duration;
  return duration.has_value();
}
template <typename Number>
requires std::is_arithmetic_v<Number>
bool ParseOption(absl::string_view text, Number& value) {
  Number parsed{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), parsed);
  if (error != std::errc() || end != text.data() + text.size()) return false;
  value = parsed;
  return true;
}

inline std::string FormatOption(Bytes value) { return FormatBytes(value); }
inline std::string FormatOption(Duration value) { return FormatDuration(value); }
inline std::string FormatOption(std::integral auto value) { return absl::StrCat(value); }
inline std::string FormatOption(double value) { return absl::StrCat(value); }

// "2MiB to 64TiB, or 0".
template <typename T>
std::string RangeText(const Range<T>& range) {
  return absl::StrCat(FormatOption(range.least), " to ", FormatOption(range.most),
                      range.or_zero ? ", or 0" : "");
}

inline absl::string_view TypeName(Bytes) { return "BYTES"; }
inline absl::string_view TypeName(Duration) { return "TIME"; }
inline absl::string_view TypeName(std::integral auto) { return "NUMBER"; }
inline absl::string_view TypeName(double) { return "NUMBER"; }

inline absl::string_view KindText(Bytes) { return "size (as in 512MiB)"; }
inline absl::string_view KindText(Duration) { return "time (as in 30s)"; }
inline absl::string_view KindText(std::integral auto) { return "whole number"; }
inline absl::string_view KindText(double) { return "number"; }

// What is wrong with `text`, in words, else "" and the value is set.
template <typename T>
std::string ParseInto(absl::string_view text, const Range<T>& range, T& value) {
  T parsed{};
  if (!ParseOption(text, parsed)) {
    return absl::StrCat("not a ", KindText(value), ", expected ", RangeText(range));
  }
  if (!range.Holds(parsed)) return absl::StrCat("expected ", RangeText(range));
  value = parsed;
  return "";
}

}  // namespace attnd
