// SPDX-License-Identifier: Apache-2.0
//
// What a device shows of itself while it works: memory in use, temperatures, power.
//
// Of an AMD GPU the amdgpu driver's files under /sys/bus/pci/devices/<address> tell it
// (Documentation/gpu/amdgpu/thermal.rst and hwmon/sysfs-interface.rst of the kernel); of another
// GPU its runtime tells the memory and no more; of the CPU /proc/meminfo does. What is missing,
// cannot be read or is no number is left out, never an error: containers may hide any of it.
//
// Reads the files each time it is asked; nothing is kept. Thread-safe.
//
//   DeviceTelemetry telemetry;  // of this machine
//   DeviceSample sample = telemetry.Sample(device, "hip");
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "kernels/backend/device.h"
#include "server/observe/gauges.h"

namespace attnd {

class DeviceTelemetry {
 public:
  // Tests put a tree of their own in place of "/".
  explicit DeviceTelemetry(std::string root = "") : root_(std::move(root)) {}

  DeviceSample Sample(Device& device, std::string_view backend) const;

 private:
  void ReadMonitor(const std::string& folder, DeviceSample& sample) const;
  std::optional<Bytes> UsedHostMemory(Bytes total) const;

  const std::string root_;
};

}  // namespace attnd
