// SPDX-License-Identifier: Apache-2.0
//
// Tells systemd (Type=notify) how far the daemon is: a datagram to the socket that $NOTIFY_SOCKET
// names, as sd_notify(3) describes. That is all of libsystemd that a daemon needs, so it is not
// linked. Without the variable nobody is told, and nothing fails.
//
// Thread-safe after construction: one system call a message.
//
//   const ServiceManager manager(socket);  // what the environment says in NOTIFY_SOCKET
//   manager.Ready("serving on unix:/run/attnd/attnd.sock");
//   manager.Stopping(options.drain_timeout);
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "kernels/base/clock.h"

namespace attnd {

class ServiceManager {
 public:
  // `socket`: a path, or "@name" for an abstract one; null or empty: nobody listens.
  explicit ServiceManager(const char* socket) : socket_(socket == nullptr ? "" : socket) {}

  // READY=1: what waits for the daemon may start. `status` is shown by `systemctl status`.
  absl::Status Ready(absl::string_view status) const;
  // STOPPING=1, and that it may take `at_most` whatever TimeoutStopSec says.
  absl::Status Stopping(Duration at_most) const;

 private:
  absl::Status Send(const std::string& message) const;

  const std::string socket_;
};

}  // namespace attnd
