// SPDX-License-Identifier: Apache-2.0
//
// What a daemon's address says before anybody is asked: pure functions, safe from any thread.
//
//   ATTND_RETURN_IF_ERROR(CheckAddress("attnd.example:7450"));
//   IsLoopback("[::1]:7450");  // true
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace attnd::client {

// INVALID_ARGUMENT where it is neither "host:port" nor "unix:/path".
absl::Status CheckAddress(std::string_view address);
bool IsUnixSocket(std::string_view address);
// Whether its bytes stay on this machine for certain: a loopback number or "localhost". Another
// name is not resolved for this.
bool IsLoopback(std::string_view address);

}  // namespace attnd::client
