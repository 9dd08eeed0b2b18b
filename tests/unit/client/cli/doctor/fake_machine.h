// SPDX-License-Identifier: Apache-2.0
//
// A machine made of files: /proc, /sys, /dev and /etc under a temporary folder, for the doctor's
// checks. The formats are those of the kernel's amdgpu, KFD and PCI documentation, the values those
// of a Radeon RX 7900 XTX in a desktop. No part of it was read from a real machine.
//
//   FakeMachine machine;
//   machine.AddRadeon();
//   machine.Write("/sys/class/drm/renderD128/device/power_dpm_force_performance_level", "low\n");
//   Report report = machine.Examine();
#pragma once

#include <string>
#include <vector>

#include "client/cli/doctor/checks.h"
#include "client/cli/doctor/host.h"
#include "client/cli/doctor/report.h"

namespace attnd::cli {

inline constexpr char kRadeonDevice[] = "/sys/class/drm/renderD128/device";

class FakeMachine {
 public:
  FakeMachine();
  ~FakeMachine();
  FakeMachine(const FakeMachine&) = delete;
  FakeMachine& operator=(const FakeMachine&) = delete;

  void Write(const std::string& path, const std::string& text);
  void Link(const std::string& path, const std::string& relative_target);
  void Remove(const std::string& path);
  // The mode of a file; its group is that of the process that runs the test.
  void SetMode(const std::string& path, unsigned mode);

  // The card on the PCI bus and nothing else: what there is without a driver.
  void AddRadeonOnBus();
  // Driver, devices, topology, memory, clocks, link, ROCm and groups: all well, and idle.
  void AddRadeon();

  // Whether the user has the group that /dev/kfd belongs to.
  void set_in_device_group(bool value) { in_device_group_ = value; }
  Environment environment;
  DaemonFacts daemon;

  Host host() const;
  // What CheckGpus finds.
  Report Examine() const;

 private:
  std::string root_;
  bool in_device_group_ = true;
};

// The findings of one check, as text without colors.
std::string FindingsOf(const Report& report, const std::string& check);

}  // namespace attnd::cli
