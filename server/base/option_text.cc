// SPDX-License-Identifier: Apache-2.0
#include "server/base/option_text.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"

namespace attnd {
namespace {

struct Unit {
  absl::string_view suffix;
  uint64_t bytes;
};
constexpr Unit kUnits[] = {
    {"TiB", uint64_t{1} << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}};

// Insertions, deletions and replacements from one to the other.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[b.size()];
}

}  // namespace

std::optional<Bytes> ParseBytes(absl::string_view text) {
  text = absl::StripAsciiWhitespace(text);
  const size_t digits = text.find_first_not_of("0123456789.");
  absl::string_view suffix = digits == absl::string_view::npos ? "" : text.substr(digits);
  absl::string_view number = text.substr(0, text.size() - suffix.size());
  suffix = absl::StripAsciiWhitespace(suffix);
  uint64_t unit = 1;
  if (!suffix.empty() && !absl::EqualsIgnoreCase(suffix, "B")) {
    const auto* found = std::find_if(std::begin(kUnits), std::end(kUnits), [&](const Unit& u) {
      const char letter = u.suffix[0];
      return absl::EqualsIgnoreCase(suffix, u.suffix) ||
             absl::EqualsIgnoreCase(suffix, std::string{letter, 'B'}) ||
             absl::EqualsIgnoreCase(suffix, std::string{letter});
    });
    if (found == std::end(kUnits)) return std::nullopt;
    unit = found->bytes;
  }
  if (uint64_t whole = 0; absl::SimpleAtoi(number, &whole)) {
    uint64_t bytes = 0;
    if (__builtin_mul_overflow(whole, unit, &bytes)) return std::nullopt;
    return Bytes(bytes);
  }
  double value = 0;
  if (number.empty() || !absl::SimpleAtod(number, &value) || !std::isfinite(value)) {
    return std::nullopt;
  }
  value *= static_cast<double>(unit);
  if (value < 0 || value >= 0x1p64) return std::nullopt;
  return Bytes(static_cast<uint64_t>(value));
}

std::string FormatBytes(Bytes bytes) {
  for (const Unit& unit : kUnits) {
    if (bytes.value() != 0 && bytes.value() % unit.bytes == 0) {
      return absl::StrCat(bytes.value() / unit.bytes, unit.suffix);
    }
  }
  return absl::StrCat(bytes.value());
}

std::optional<Duration> ParseDuration(absl::string_view text) {
  absl::Duration duration;
  if (!absl::ParseDuration(absl::StripAsciiWhitespace(text), &duration)) return std::nullopt;
  if (duration < absl::ZeroDuration()) return std::nullopt;
  return absl::ToChronoNanoseconds(duration);
}

std::string FormatDuration(Duration duration) {
  return absl::FormatDuration(absl::FromChrono(duration));
}

absl::string_view ClosestName(absl::string_view name, std::span<const std::string> candidates) {
  absl::string_view closest;
  size_t best = std::max<size_t>(2, name.size() / 3);
  for (const std::string& candidate : candidates) {
    const size_t distance = EditDistance(name, candidate);
    if (distance <= best && (closest.empty() || distance < best)) {
      best = distance;
      closest = candidate;
    }
  }
  return closest;
}

}  // namespace attnd
