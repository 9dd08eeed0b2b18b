// SPDX-License-Identifier: Apache-2.0
//
// What a draining daemon still does: it answers reads, keeps leases, saves client state and frees;
// it begins nothing new.
//
//   ATTND_RETURN_IF_ERROR(RefuseWhileDraining(admission));
#pragma once

#include "absl/status/status.h"
#include "kv_cache/error_detail.h"
#include "server/admission/admission.h"

namespace attnd {

// UNAVAILABLE (DRAINING) once the daemon drains.
inline absl::Status RefuseWhileDraining(const Admission& admission) {
  if (!admission.draining()) return absl::OkStatus();
  return AttachErrorDetail(
      absl::UnavailableError("the daemon is draining: another one must serve this"),
      {.reason = ErrorReason::kDraining, .retry_delay = std::chrono::seconds(1)});
}

}  // namespace attnd
