// SPDX-License-Identifier: Apache-2.0
//
// The standard gRPC health check (grpc.health.v1), for probes and load balancers.
//
// Needs no token and sends none: a probe must not depend on a tenant. Safe from any thread; blocks
// until `timeout` at most.
//
//   absl::Status healthy = CheckHealth({.address = "unix:/run/attnd/attnd.sock"});
#pragma once

#include <chrono>
#include <string>

#include "absl/status/status.h"
#include "client/cpp/credentials.h"
#include "kernels/base/clock.h"

namespace attnd::client {

struct HealthOptions {
  std::string address = "127.0.0.1:7450";
  Credentials credentials{};  // TLS; the token is not used
  std::string service{};      // "attnd.v1.AttentionService"; empty: the daemon as a whole
  Duration timeout = std::chrono::seconds(3);
};

// OK where the daemon says SERVING. UNAVAILABLE: it says another thing, or nobody answers
// (IsChannelError); NOT_FOUND: it knows no such service; UNIMPLEMENTED: it has no health service.
absl::Status CheckHealth(const HealthOptions& options);

}  // namespace attnd::client
