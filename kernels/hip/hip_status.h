// SPDX-License-Identifier: Apache-2.0
//
// hipError_t ends here: what HIP returns becomes absl::Status, and a device that HIP has lost is
// fenced.
//
// HIP's errors come in two kinds. A refusal (out of memory, a bad argument) concerns one call. A
// sticky error (a fault in a kernel, an uncorrectable memory error) says that the device's contents
// cannot be trusted any more, often from a call that has nothing to do with what went wrong. The
// first sticky error fences its device: every later call on it is INTERNAL with the first cause.
// Thread-safe.
//
//   ATTND_RETURN_IF_HIP_ERROR(fence, hipEventRecord(event, stream));
#pragma once

#include <hip/hip_runtime.h>

#include <atomic>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "kernels/base/mutex.h"

namespace attnd {

// Whether the device is lost. True for every error that is not known to be a refusal.
bool IsSticky(hipError_t error);

// OK; RESOURCE_EXHAUSTED where memory ran out; NOT_FOUND where there is no device; else INTERNAL.
// The message names the device, the call (its name is what precedes the parenthesis) and HIP's
// text.
absl::Status HipStatus(hipError_t error, std::string_view device, std::string_view call);

class HipFence {
 public:
  explicit HipFence(std::string device) : device_(std::move(device)) {}

  // HipStatus of `error`; where it is sticky, or an earlier one was, the first one's.
  absl::Status Check(hipError_t error, std::string_view call) ABSL_LOCKS_EXCLUDED(mu_);
  // OK, or INTERNAL with the first sticky error.
  absl::Status status() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  const std::string device_;
  std::atomic<bool> fenced_ = false;
  mutable Mutex mu_;
  std::string cause_ ABSL_GUARDED_BY(mu_);  // of the first sticky error; empty: none yet
};

}  // namespace attnd

// Returns from the calling function where the device is fenced, without making the call, or where
// the call fails.
#define ATTND_RETURN_IF_HIP_ERROR(fence, call)                                  \
  do {                                                                          \
    absl::Status attnd_hip_status = (fence).status();                           \
    if (attnd_hip_status.ok()) attnd_hip_status = (fence).Check((call), #call); \
    if (!attnd_hip_status.ok()) return attnd_hip_status;                        \
  } while (false)
