// SPDX-License-Identifier: Apache-2.0
//
// Whether a failed call is sent again, and when: the error table of proto/attnd/v1/attention.proto
// as a pure function. Safe from any thread.
//
//   std::optional<Duration> delay = RetryDelay(policy, status, Repeat::kAlways, /*attempts=*/1,
//   0.5);
#pragma once

#include <optional>

#include "absl/status/status.h"
#include "client/cpp/client.h"
#include "kernels/base/clock.h"

namespace attnd::client {

// What a second execution of a call would do.
enum class Repeat {
  kOnlyIfRefused,  // harm: a second session, a second child. Sent again only if surely not executed
  kAlways,         // nothing: a read, a call that is idempotent, Attend with its steps
};

// The delay before the next attempt, or nothing where the status is final. `attempts` counts those
// made, at least 1; `jitter` in [0, 1) spreads clients that failed together.
std::optional<Duration> RetryDelay(const RetryPolicy& policy, const absl::Status& status,
                                   Repeat repeat, int attempts, double jitter);

}  // namespace attnd::client
