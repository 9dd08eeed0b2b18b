// SPDX-License-Identifier: Apache-2.0
#include "server/rpc/listen_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace attnd {
namespace {

constexpr absl::string_view kUnixPrefix = "unix:";

absl::Status InvalidAddress(absl::string_view address, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("address \"", address, "\": ", what));
}

}  // namespace

absl::StatusOr<ListenAddress> ParseListenAddress(absl::string_view address) {
  ListenAddress parsed;
  if (absl::StartsWith(address, kUnixPrefix)) {
    parsed.is_unix = true;
    parsed.path = std::string(address.substr(kUnixPrefix.size()));
    // gRPC takes both "unix:/path" and "unix:///path".
    if (absl::StartsWith(parsed.path, "///")) parsed.path.erase(0, 2);
    if (parsed.path.empty()) return InvalidAddress(address, "the path is empty");
    return parsed;
  }
  const size_t colon = address.rfind(':');
  if (colon == absl::string_view::npos || colon == 0) {
    return InvalidAddress(address, "expected \"host:port\" or \"unix:/path\"");
  }
  absl::string_view host = address.substr(0, colon);
  if (host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (absl::StrContains(host, ":")) {
    return InvalidAddress(address, "an IPv6 address is written in brackets: \"[::1]:7450\"");
  }
  if (host.empty()) return InvalidAddress(address, "the host is empty");
  parsed.host = std::string(host);
  const absl::string_view port = address.substr(colon + 1);
  if (!absl::SimpleAtoi(port, &parsed.port) || parsed.port < 0 || parsed.port > 65535) {
    return InvalidAddress(
        address, absl::StrCat("port \"", port, "\", expected 0 to 65535 (0 takes a free one)"));
  }
  return parsed;
}

std::string DialString(const ListenAddress& address, int port) {
  if (address.is_unix) return absl::StrCat(kUnixPrefix, address.path);
  if (absl::StrContains(address.host, ":")) return absl::StrCat("[", address.host, "]:", port);
  return absl::StrCat(address.host, ":", port);
}

bool IsLoopback(const ListenAddress& address) {
  if (address.is_unix || address.host == "localhost") return true;
  in_addr v4{};
  if (inet_pton(AF_INET, address.host.c_str(), &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
  in6_addr v6{};
  return inet_pton(AF_INET6, address.host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

absl::Status CheckPlainTextAllowed(const ListenAddress& address, bool insecure,
                                   absl::string_view remedy) {
  if (insecure || IsLoopback(address)) return absl::OkStatus();
  return InvalidAddress(DialString(address, address.port),
                        absl::StrCat("is not a loopback address: ", remedy));
}

}  // namespace attnd
