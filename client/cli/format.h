// SPDX-License-Identifier: Apache-2.0
//
// Numbers for people: "1.5 GiB", "12.3k", "4.20 ms". Pure functions, safe from any thread.
#pragma once

#include <cstdint>
#include <string>

namespace attnd::cli {

std::string HumanBytes(double bytes);      // powers of 1024: "512 B", "1.5 GiB"
std::string HumanCount(double count);      // powers of 1000: "950", "12.3k", "4.56M"
std::string HumanSeconds(double seconds);  // "870 ns", "4.20 ms", "12.3 s", "3h 07m"
std::string Percent(double fraction);      // 0.123 -> "12.3%"
std::string Scientific(double value);      // "3.1e-07"

}  // namespace attnd::cli
