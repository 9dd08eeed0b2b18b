// SPDX-License-Identifier: Apache-2.0
#include "kernels/hip/hip_status.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace attnd {

bool IsSticky(hipError_t error) {
  switch (error) {
    case hipSuccess:
    case hipErrorNotReady:
    case hipErrorInvalidValue:
    case hipErrorOutOfMemory:
    case hipErrorInvalidConfiguration:
    case hipErrorInvalidDeviceFunction:
    case hipErrorNoDevice:
    case hipErrorInvalidDevice:
    case hipErrorInvalidHandle:
    case hipErrorLaunchOutOfResources:
    case hipErrorNotSupported:
      return false;
    default:
      return true;
  }
}

absl::Status HipStatus(hipError_t error, std::string_view device, std::string_view call) {
  if (error == hipSuccess) return absl::OkStatus();
  const std::string message =
      absl::StrCat(std::string(device), ": ", std::string(call.substr(0, call.find('('))), ": ",
                   hipGetErrorName(error), " (", hipGetErrorString(error), ")");
  switch (error) {
    case hipErrorOutOfMemory:
      return absl::ResourceExhaustedError(message);
    case hipErrorNoDevice:
      return absl::NotFoundError(message);
    default:
      return absl::InternalError(message);
  }
}

absl::Status HipFence::Check(hipError_t error, std::string_view call) {
  if (error == hipSuccess) return status();
  const absl::Status failed = HipStatus(error, device_, call);
  if (!IsSticky(error)) {
    // HIP repeats the last error to whoever asks next; this one has been heard.
    (void)hipGetLastError();
    return fenced_.load(std::memory_order_acquire) ? status() : failed;
  }
  {
    MutexLock lock(mu_);
    if (cause_.empty()) cause_ = std::string(failed.message());
  }
  fenced_.store(true, std::memory_order_release);
  return status();
}

absl::Status HipFence::status() const {
  if (!fenced_.load(std::memory_order_acquire)) return absl::OkStatus();
  // A status of its own for each caller: they are counted by reference in a library without
  // ThreadSanitizer's instrumentation.
  MutexLock lock(mu_);
  return absl::InternalError(cause_);
}

}  // namespace attnd
