// SPDX-License-Identifier: Apache-2.0
//
// A GPU as a Device, through HIP: memory by hipMalloc and hipHostMalloc, streams, recycled events.
//
// HIP keeps a current device for each thread. What launches or copies on this one calls Use()
// first; a stream's own methods do. The first sticky error fences the device (hip_status.h): it
// stays so until the process ends. Thread safety: that of Device.
//
//   ATTND_ASSIGN_OR_RETURN(const int count, NumHipDevices());
//   ATTND_ASSIGN_OR_RETURN(std::unique_ptr<HipDevice> device, HipDevice::Open(/*ordinal=*/0));
//   ATTND_ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream, device->NewStream());
#pragma once

#include <hip/hip_runtime.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend/device.h"
#include "kernels/hip/hip_status.h"
#include "kernels/hip/hip_stream.h"

namespace attnd {

// Those that HIP lets this process see: HIP_VISIBLE_DEVICES and the like are the runtime's.
// NOT_FOUND where there is none.
absl::StatusOr<int> NumHipDevices();

class HipDevice final : public Device {
 public:
  // `ordinal` is below NumHipDevices().
  static absl::StatusOr<std::unique_ptr<HipDevice>> Open(int ordinal);

  const DeviceInfo& info() const override { return info_; }
  absl::StatusOr<Buffer> Allocate(Bytes size) override;
  // Pinned, mapped into every device of this process.
  absl::StatusOr<Buffer> AllocateHost(Bytes size) override;
  // Nothing of a device that is fenced: it may not answer.
  std::optional<Bytes> UsedMemory() override;
  // A HipStream.
  absl::StatusOr<std::unique_ptr<Stream>> NewStream() override;

  // Makes it the calling thread's current device.
  absl::Status Use();
  int ordinal() const { return ordinal_; }
  HipFence& fence() { return fence_; }

 private:
  HipDevice(int ordinal, DeviceInfo info);

  const int ordinal_;
  const DeviceInfo info_;
  HipFence fence_;
  HipEventPool events_;
};

}  // namespace attnd
