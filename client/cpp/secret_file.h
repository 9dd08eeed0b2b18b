// SPDX-License-Identifier: Apache-2.0
//
// Reading small files that security depends on, with messages that name the file and the reason,
// and never what is in it.
//
// `what` is the option that named the file. A secret that any user may read, or that others may
// write, is none: ReadSecretFile refuses it. A group may read it, as mounted secrets want. Pure
// functions, safe from any thread.
//
//   ATTND_ASSIGN_OR_RETURN(std::string key, ReadSecretFile("tls_key", "/etc/attnd/client.key"));
#pragma once

#include <sys/types.h>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace attnd::client {

// INVALID_ARGUMENT: it cannot be read, or is larger than 1 MiB.
absl::StatusOr<std::string> ReadSmallFile(std::string_view what, const std::string& path);
// Also where its mode is too open; says which chmod closes it.
absl::StatusOr<std::string> ReadSecretFile(std::string_view what, const std::string& path);
// The rule alone, for a file of this mode.
absl::Status CheckSecretMode(std::string_view what, const std::string& path, mode_t mode);

// Which content a path had: changes when the file is written or replaced.
struct FileStamp {
  uint64_t device = 0;
  uint64_t inode = 0;
  int64_t modified_ns = 0;
  int64_t size_bytes = 0;

  bool operator==(const FileStamp&) const = default;
};
// All zeros where there is none.
FileStamp StampOf(const std::string& path);

}  // namespace attnd::client
