// SPDX-License-Identifier: Apache-2.0
//
// What a program needs to know of an error beyond its code, carried by absl::Status as a payload.
//
// The numbers of ErrorReason are those of ErrorDetail.Reason in proto/attnd/v1/types.proto, into
// which server/rpc turns it. Pure functions, safe from any thread.
//
//   return AttachErrorDetail(absl::NotFoundError("..."), {.reason = ErrorReason::kStaleId});
//   if (std::optional<ErrorDetail> detail = GetErrorDetail(status)) Wait(detail->retry_delay);
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "kernels/base/clock.h"
#include "kernels/base/units.h"

namespace attnd {

enum class ErrorReason : uint8_t {
  kUnspecified = 0,
  kQueueFull = 1,
  kDraining = 2,
  kPagesExhausted = 3,
  kMessageTooLarge = 4,
  kCapabilityMissing = 5,
  kStaleId = 6,
  kSuperseded = 7,
  kTenantLimit = 8,
};

struct ErrorDetail {
  ErrorReason reason = ErrorReason::kUnspecified;
  Duration retry_delay{};
  PageCount needed_pages{};
  PageCount free_pages{};
  Bytes limit_bytes{};

  friend bool operator==(const ErrorDetail&, const ErrorDetail&) = default;
};

inline constexpr char kErrorDetailTypeUrl[] = "attnd.dev/attnd.ErrorDetail";

// Replaces a detail that is already there. An OK status stays as it is.
absl::Status AttachErrorDetail(absl::Status status, const ErrorDetail& detail);

// Nothing where the status carries none, or one that does not parse.
std::optional<ErrorDetail> GetErrorDetail(const absl::Status& status);

}  // namespace attnd
