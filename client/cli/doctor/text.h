// SPDX-License-Identifier: Apache-2.0
//
// Taking the kernel's text files apart. What is returned views the text that was given. Pure
// functions, safe from any thread.
//
//   for (std::string_view line : Split(text, '\n')) Use(Words(line));
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace attnd::cli {

// The parts between separators, empty ones among them: "a,,b" has three.
std::vector<std::string_view> Split(std::string_view text, char separator);
// The parts between runs of any of `separators`, none of them empty.
std::vector<std::string_view> Words(std::string_view text, std::string_view separators = " \t");
// A whole text that is a decimal number, or one in hexadecimal after "0x".
std::optional<uint64_t> ToNumber(std::string_view text);
// The decimal digits at its beginning: "2482Mhz" -> 2482.
std::optional<uint64_t> LeadingNumber(std::string_view text);
// The decimal fraction at its beginning: "16.0 GT/s" -> 16.
std::optional<double> LeadingFraction(std::string_view text);

}  // namespace attnd::cli
