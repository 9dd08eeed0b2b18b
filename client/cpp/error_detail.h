// SPDX-License-Identifier: Apache-2.0
//
// What a daemon's error says beyond its code and message.
//
// Every absl::Status that this library returns for a refusal of the daemon carries the daemon's own
// message; where the daemon attached details, they are in the status' payload and read with
// GetErrorDetail. Pure functions, safe from any thread.
//
//   if (auto detail = GetErrorDetail(status); detail && detail->reason ==
//   ErrorReason::kPagesExhausted)
//     FreeSequences(detail->needed_pages - detail->free_pages);
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "kernels/base/clock.h"

namespace attnd::client {

enum class ErrorReason {
  kUnspecified = 0,
  kQueueFull = 1,          // UNAVAILABLE: the client retries by itself
  kDraining = 2,           // UNAVAILABLE: another daemon must serve it
  kPagesExhausted = 3,     // RESOURCE_EXHAUSTED: free something, then retry
  kMessageTooLarge = 4,    // RESOURCE_EXHAUSTED: split the request
  kCapabilityMissing = 5,  // UNIMPLEMENTED: the message names it
  kStaleId = 6,            // NOT_FOUND: unknown, freed, or from before a restart
  kSuperseded = 7,         // ABORTED: a newer epoch or step exists
  kTenantLimit = 8,        // RESOURCE_EXHAUSTED: a limit of the caller's tenant
};
std::string_view Name(ErrorReason reason);  // "queue full", "draining", ...

struct ErrorDetail {
  ErrorReason reason = ErrorReason::kUnspecified;
  Duration retry_delay{};
  int64_t needed_pages = 0;
  int64_t free_pages = 0;
  uint64_t limit_bytes = 0;
};

// The detail of a status that this library returned, if it has one.
std::optional<ErrorDetail> GetErrorDetail(const absl::Status& status);
void SetErrorDetail(absl::Status& status, const ErrorDetail& detail);

// Whether the error came from the connection, not from the daemon: the call possibly took effect.
// Sending an Attend with the same steps again is harmless; the library has tried already.
bool IsChannelError(const absl::Status& status);
void MarkChannelError(absl::Status& status);

}  // namespace attnd::client
