// SPDX-License-Identifier: Apache-2.0
//
// The config file: its grammar, and errors that name the line and what is expected there. Which
// keys there are and what a value means is the options' (options.cc).
//
//   # a comment                       num_threads = 4
//   metrics_listen = ""               listen = ["127.0.0.1:7450", "unix:/run/attnd/attnd.sock"]
//
// One "name = value" a line. A value is bare (up to " #" or the end of the line), or in double
// quotes with C's escapes, or, for an option that may be given more than once, a list in brackets
// on one line. Each key once. UTF-8, at most kMostConfigBytes with lines of at most
// kMostConfigLineBytes; an empty file is a file.
//
// Pure functions, but for ReadConfigFile; safe from any thread.
//
//   ATTND_ASSIGN_OR_RETURN(std::string text, ReadConfigFile("/etc/attnd/attnd.conf"));
//   const ConfigText config = ParseConfig(text);
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace attnd {

inline constexpr size_t kMostConfigBytes = 1 << 20;
inline constexpr size_t kMostConfigLineBytes = 4096;

struct ConfigEntry {
  int line = 0;  // from 1
  std::string key;
  std::vector<std::string> values;  // one, but for a list
  bool is_list = false;
};

struct ConfigError {
  int line = 0;
  std::string what;
};

struct ConfigText {
  std::vector<ConfigEntry> entries;
  std::vector<ConfigError> errors;
};

ConfigText ParseConfig(absl::string_view text);

// INVALID_ARGUMENT names the file and why it cannot be read.
absl::StatusOr<std::string> ReadConfigFile(const std::string& path);

// A value as errors and printed options show it, and as the parser reads it back: in quotes,
// escaped. Errors show no more than `most_bytes` of it.
std::string QuotedValue(absl::string_view value);
std::string ShownValue(absl::string_view value, size_t most_bytes = 80);

}  // namespace attnd
