// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/internal/retry.h"

#include <algorithm>

#include "client/cpp/error_detail.h"

namespace attnd::client {
namespace {

// Backoff before attempt `attempts` + 1, without jitter.
Duration Backoff(const RetryPolicy& policy, int attempts) {
  Duration delay = policy.initial_backoff;
  for (int i = 1; i < attempts && delay < policy.max_backoff; ++i) delay *= 2;
  return std::min(delay, policy.max_backoff);
}

Duration Scaled(Duration delay, double factor) {
  return Duration(static_cast<Duration::rep>(static_cast<double>(delay.count()) * factor));
}

}  // namespace

std::optional<Duration> RetryDelay(const RetryPolicy& policy, const absl::Status& status,
                                   Repeat repeat, int attempts, double jitter) {
  if (attempts >= policy.max_attempts || !absl::IsUnavailable(status)) return std::nullopt;
  if (IsChannelError(status)) {
    if (repeat != Repeat::kAlways) return std::nullopt;
    return Scaled(Backoff(policy, attempts), 0.5 + 0.5 * jitter);
  }
  const std::optional<ErrorDetail> detail = GetErrorDetail(status);
  if (!detail) return std::nullopt;
  // A daemon that drains will not take the call later either.
  if (detail->reason == ErrorReason::kDraining) return std::nullopt;
  const Duration delay =
      detail->retry_delay > Duration::zero() ? detail->retry_delay : Backoff(policy, attempts);
  // Never earlier than the daemon asked for.
  return Scaled(delay, 1.0 + 0.25 * jitter);
}

}  // namespace attnd::client
