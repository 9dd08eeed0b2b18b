// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/secret_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_format.h"
#include "client/cpp/internal/concat.h"
#include "kernels/base/status_macros.h"

namespace attnd::client {
namespace {

constexpr size_t kMaxBytes = size_t{1} << 20;
constexpr mode_t kTooOpen = S_IWGRP | S_IROTH | S_IWOTH | S_IXOTH;

class Descriptor {
 public:
  explicit Descriptor(const std::string& path) : fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int fd() const { return fd_; }

 private:
  const int fd_;
};

absl::Status CannotRead(std::string_view what, const std::string& path) {
  return absl::InvalidArgumentError(
      Concat(what, ": cannot read ", path, ": ", std::strerror(errno)));
}

absl::StatusOr<std::string> Read(std::string_view what, const std::string& path, bool secret) {
  const Descriptor file(path);
  struct stat info {};
  if (file.fd() < 0 || fstat(file.fd(), &info) != 0) return CannotRead(what, path);
  // Of the file that is open: the path may lead elsewhere by now.
  if (secret) ATTND_RETURN_IF_ERROR(CheckSecretMode(what, path, info.st_mode));
  std::string content;
  char buffer[4096];
  while (true) {
    const ssize_t count = read(file.fd(), buffer, sizeof(buffer));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return CannotRead(what, path);
    if (count == 0) return content;
    content.append(buffer, static_cast<size_t>(count));
    if (content.size() > kMaxBytes) {
      return absl::InvalidArgumentError(
          Concat(what, ": ", path, " is larger than ", kMaxBytes, " bytes: is it the file?"));
    }
  }
}

}  // namespace

absl::StatusOr<std::string> ReadSmallFile(std::string_view what, const std::string& path) {
  return Read(what, path, /*secret=*/false);
}

absl::StatusOr<std::string> ReadSecretFile(std::string_view what, const std::string& path) {
  return Read(what, path, /*secret=*/true);
}

absl::Status CheckSecretMode(std::string_view what, const std::string& path, mode_t mode) {
  if ((mode & kTooOpen) == 0) return absl::OkStatus();
  const bool readable = (mode & S_IROTH) != 0;
  return absl::InvalidArgumentError(absl::StrFormat(
      "%s: %s has mode %04o: %s, expected at most 0640 (chmod 600 %s)", what, path, mode & 07777,
      readable ? "every user may read it" : "others may change it", path));
}

FileStamp StampOf(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return {};
  return {.device = info.st_dev,
          .inode = info.st_ino,
          .modified_ns = info.st_mtim.tv_sec * int64_t{1'000'000'000} + info.st_mtim.tv_nsec,
          .size_bytes = info.st_size};
}

}  // namespace attnd::client
