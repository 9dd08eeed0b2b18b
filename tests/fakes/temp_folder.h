// SPDX-License-Identifier: Apache-2.0
//
// A folder of a test's own, removed with the object.
//
//   const TempFolder folder;
//   std::ofstream(folder.File("token")) << "...";
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

namespace attnd {

class TempFolder {
 public:
  TempFolder() : path_(std::filesystem::temp_directory_path() / "attnd-test-XXXXXX") {
    if (mkdtemp(path_.data()) == nullptr) std::abort();
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace attnd
