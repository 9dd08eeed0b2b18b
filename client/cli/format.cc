// SPDX-License-Identifier: Apache-2.0
#include "client/cli/format.h"

#include <cmath>

#include "absl/strings/str_format.h"

namespace attnd::cli {
namespace {

// Three significant digits.
std::string Short(double value) {
  if (value >= 99.95) return absl::StrFormat("%.0f", value);
  if (value >= 9.995) return absl::StrFormat("%.1f", value);
  return absl::StrFormat("%.2f", value);
}

}  // namespace

std::string HumanBytes(double bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  int unit = 0;
  while (bytes >= 1024.0 && unit < 5) {
    bytes /= 1024.0;
    ++unit;
  }
  return (unit == 0 ? absl::StrFormat("%.0f", bytes) : Short(bytes)) + " " + kUnits[unit];
}

std::string HumanCount(double count) {
  static constexpr const char* kUnits[] = {"", "k", "M", "G", "T", "P"};
  int unit = 0;
  while (count >= 1000.0 && unit < 5) {
    count /= 1000.0;
    ++unit;
  }
  if (unit == 0 && count == std::floor(count)) return absl::StrFormat("%.0f", count);
  return Short(count) + kUnits[unit];
}

std::string HumanSeconds(double seconds) {
  if (!std::isfinite(seconds)) return "-";
  if (seconds == 0.0) return "0 s";
  if (seconds < 1e-6) return absl::StrFormat("%.0f ns", seconds * 1e9);
  if (seconds < 1e-3) return Short(seconds * 1e6) + " us";
  if (seconds < 1.0) return Short(seconds * 1e3) + " ms";
  if (seconds < 120.0) return Short(seconds) + " s";
  const auto whole = static_cast<int64_t>(seconds);
  if (whole < 3600) return absl::StrFormat("%dm %02ds", whole / 60, whole % 60);
  if (whole < 86400) return absl::StrFormat("%dh %02dm", whole / 3600, whole / 60 % 60);
  return absl::StrFormat("%dd %02dh", whole / 86400, whole / 3600 % 24);
}

std::string Percent(double fraction) { return absl::StrFormat("%.1f%%", fraction * 100.0); }

std::string Scientific(double value) { return absl::StrFormat("%.1e", value); }

}  // namespace attnd::cli
