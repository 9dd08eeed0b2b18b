// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/internal/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <cstring>

#include "client/cpp/internal/concat.h"

namespace attnd::client {

absl::Status CheckAddress(std::string_view address) {
  if (address.starts_with("unix:")) {
    return address.size() > 5 ? absl::OkStatus()
                              : absl::InvalidArgumentError("address 'unix:' has no path");
  }
  const size_t colon = address.rfind(':');
  if (colon == std::string_view::npos || colon == 0 || colon + 1 == address.size()) {
    return absl::InvalidArgumentError(
        Concat("address '", address, "' is neither host:port nor unix:/path"));
  }
  return absl::OkStatus();
}

bool IsUnixSocket(std::string_view address) {
  return address.starts_with("unix:") || address.starts_with("unix-abstract:");
}

bool IsLoopback(std::string_view address) {
  std::string host(address.substr(0, address.rfind(':')));
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  if (host == "localhost") return true;
  // Only what is a number: "127.example.com" is somebody's name.
  in_addr v4{};
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6{};
  return inet_pton(AF_INET6, host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

}  // namespace attnd::client
