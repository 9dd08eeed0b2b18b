// SPDX-License-Identifier: Apache-2.0
//
// How sizes, times and misspelt names are written and read on the command line.
//
// Pure functions, safe from any thread.
//
//   std::optional<Bytes> pool = ParseBytes("1.5GiB");
//   std::optional<Duration> lease = ParseDuration("5m");
#pragma once

#include <optional>
#include <span>
#include <string>

#include "absl/strings/string_view.h"
#include "kernels/base/clock.h"
#include "kernels/base/units.h"

namespace attnd {

// A number with one of the suffixes B, K, M, G, T (with or without "iB": powers of 1024, "KB" too).
// Nothing where it is malformed, negative or beyond 64 bits.
std::optional<Bytes> ParseBytes(absl::string_view text);
std::string FormatBytes(Bytes bytes);  // "1GiB", or "1000" where no suffix divides it

// "300ms", "5m", "1h30m", "0". Nothing where it is malformed or negative.
std::optional<Duration> ParseDuration(absl::string_view text);
std::string FormatDuration(Duration duration);

// The candidate that a misspelt name most likely means, or an empty one.
absl::string_view ClosestName(absl::string_view name, std::span<const std::string> candidates);

}  // namespace attnd
