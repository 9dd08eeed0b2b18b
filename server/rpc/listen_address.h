// SPDX-License-Identifier: Apache-2.0
//
// Addresses that the daemon serves on: "host:port" (port 0 takes a free one) or "unix:/path".
//
// Without TLS a TCP address must be a loopback one, unless the operator says that the network is
// trusted. Pure functions, safe from any thread.
//
//   ATTND_ASSIGN_OR_RETURN(ListenAddress address, ParseListenAddress("127.0.0.1:7450"));
//   ATTND_RETURN_IF_ERROR(CheckPlainTextAllowed(address, options.insecure, kPlainTextListen));
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace attnd {

struct ListenAddress {
  bool is_unix = false;
  std::string path;  // of a Unix socket
  std::string host;  // without the brackets of IPv6
  int port = 0;
};

// INVALID_ARGUMENT says what an address looks like.
absl::StatusOr<ListenAddress> ParseListenAddress(absl::string_view address);

// As clients dial it, with the port that was bound.
std::string DialString(const ListenAddress& address, int port);

bool IsLoopback(const ListenAddress& address);

inline constexpr absl::string_view kPlainTextListen =
    "it needs TLS (--tls_cert, --tls_key), or --insecure where the network itself is trusted";

// INVALID_ARGUMENT for a TCP address other than loopback, unless `insecure` allows it; says
// `remedy`.
absl::Status CheckPlainTextAllowed(const ListenAddress& address, bool insecure,
                                   absl::string_view remedy);

}  // namespace attnd
