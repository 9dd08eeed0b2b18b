// SPDX-License-Identifier: Apache-2.0
//
// Tells whether a file is another one than before, by what stat says of it.
//
//   if (FileVersion now = FileVersion::Of(path); now != read_) Reload();
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <string>

namespace attnd {

struct FileVersion {
  uint64_t device = 0, inode = 0, size = 0;
  int64_t changed_s = 0, changed_ns = 0;

  // All zero for a file that is not there.
  static FileVersion Of(const std::string& path) {
    struct stat status {};
    if (stat(path.c_str(), &status) != 0) return {};
    return {.device = status.st_dev,
            .inode = status.st_ino,
            .size = static_cast<uint64_t>(status.st_size),
            .changed_s = status.st_ctim.tv_sec,
            .changed_ns = status.st_ctim.tv_nsec};
  }

  friend bool operator==(const FileVersion&, const FileVersion&) = default;
};

}  // namespace attnd
