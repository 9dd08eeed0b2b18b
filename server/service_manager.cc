// SPDX-License-Identifier: Apache-2.0
#include "server/service_manager.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstring>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace attnd {

absl::Status ServiceManager::Ready(absl::string_view status) const {
  // A line of the message is an assignment of its own.
  return Send(absl::StrCat("READY=1\nSTATUS=", absl::StrReplaceAll(status, {{"\n", " "}})));
}

absl::Status ServiceManager::Stopping(Duration at_most) const {
  // Beside the drain: listeners that close, memory that is given back.
  constexpr Duration kMargin = std::chrono::seconds(10);
  const Duration most = std::chrono::hours(24 * 365);
  const int64_t extend_us =
      std::chrono::duration_cast<std::chrono::microseconds>(std::min(at_most, most) + kMargin)
          .count();
  return Send(absl::StrCat("STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=", extend_us));
}

absl::Status ServiceManager::Send(const std::string& message) const {
  if (socket_.empty()) return absl::OkStatus();
  const auto fail = [&](absl::string_view why) {
    return absl::UnavailableError(absl::StrCat("NOTIFY_SOCKET=\"", socket_, "\": ", why));
  };
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  if (socket_[0] != '/' && socket_[0] != '@') return fail("expected /path or @name");
  if (socket_.size() >= sizeof(name.sun_path)) return fail("the name is too long");
  std::memcpy(name.sun_path, socket_.data(), socket_.size());
  if (socket_[0] == '@') name.sun_path[0] = '\0';
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + socket_.size());
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return fail(strerror(errno));
  const absl::Cleanup close_fd = [fd] { close(fd); };
  const ssize_t sent = sendto(fd, message.data(), message.size(), MSG_NOSIGNAL,
                              reinterpret_cast<const sockaddr*>(&name), size);
  if (sent != static_cast<ssize_t>(message.size())) return fail(strerror(errno));
  return absl::OkStatus();
}

}  // namespace attnd
