// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "tests/unit/client/cli/doctor/fake_machine.h"

namespace attnd::cli {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

TEST(AmdDriverTest, NamesTheGroupThatTheUserLacks) {
  FakeMachine machine;
  machine.AddRadeon();
  machine.set_in_device_group(false);
  const Report report = machine.Examine();
  EXPECT_EQ(report.Count(Verdict::kFail), 2);
  for (const char* path : {"/dev/kfd", "/dev/dri/renderD128"}) {
    EXPECT_THAT(FindingsOf(report, path), HasSubstr("ann may not open it: mode 660, group render"));
    EXPECT_THAT(FindingsOf(report, path), HasSubstr("usermod -aG render ann"));
  }
}

TEST(AmdDriverTest, AUserWhoJoinedTheGroupMustLogInAgain) {
  FakeMachine machine;
  machine.AddRadeon();
  machine.set_in_device_group(false);
  machine.Write("/etc/group", absl::StrCat("render:x:", getegid(), ":bob,ann\n"));
  EXPECT_THAT(FindingsOf(machine.Examine(), "/dev/kfd"),
              HasSubstr("ann is in render, but this session is older: log in again"));
}

TEST(AmdDriverTest, AContainerNeedsItsDevices) {
  FakeMachine machine;
  machine.AddRadeon();
  machine.Write("/.dockerenv", "");
  machine.Remove("/dev/kfd");
  EXPECT_THAT(FindingsOf(machine.Examine(), "/dev/kfd"), HasSubstr("--device /dev/kfd"));
  machine.Write("/dev/kfd", "");
  machine.SetMode("/dev/kfd", 0660);
  machine.set_in_device_group(false);
  EXPECT_THAT(FindingsOf(machine.Examine(), "/dev/kfd"), HasSubstr("--group-add render"));
}

TEST(AmdDriverTest, ADeviceThatNoGroupMayOpenIsAMatterOfRules) {
  FakeMachine machine;
  machine.AddRadeon();
  machine.SetMode("/dev/kfd", 0600);
  EXPECT_THAT(FindingsOf(machine.Examine(), "/dev/kfd"), HasSubstr("udev rules"));
}

TEST(AmdDriverTest, FindsWhatKeepsTheDriverFromLoading) {
  FakeMachine machine;
  machine.AddRadeonOnBus();
  machine.Write("/etc/modprobe.d/mine.conf", "# old\nblacklist  amdgpu\n");
  EXPECT_THAT(FindingsOf(machine.Examine(), "amdgpu driver"),
              HasSubstr("remove `blacklist amdgpu` from /etc/modprobe.d/mine.conf"));
}

TEST(AmdDriverTest, TellsTheKernelsDriverFromAmdsOwn) {
  FakeMachine machine;
  machine.AddRadeon();
  EXPECT_THAT(FindingsOf(machine.Examine(), "amdgpu driver"), HasSubstr("that of Linux 6.8.12"));
  machine.Write("/sys/module/amdgpu/version", "6.10.5\n");
  EXPECT_THAT(FindingsOf(machine.Examine(), "amdgpu driver"),
              HasSubstr("6.10.5, beside Linux 6.8.12"));
}

TEST(AmdDriverTest, ACardKeptForVirtualMachinesIsNoFailure) {
  FakeMachine machine;
  machine.AddRadeonOnBus();
  machine.Write("/sys/bus/pci/drivers/vfio-pci/module", "");
  machine.Link("/sys/bus/pci/devices/0000:03:00.0/driver",
               "../../../../../../bus/pci/drivers/vfio-pci");
  machine.Write("/opt/rocm/.info/version", "6.4.1-83\n");
  machine.Write("/opt/rocm/lib/libamdhip64.so.6", "");
  const Report report = machine.Examine();
  EXPECT_EQ(report.Count(Verdict::kFail), 0);
  EXPECT_THAT(FindingsOf(report, "amdgpu driver"), HasSubstr("instead of vfio-pci"));
}

TEST(AmdDriverTest, NoAmdGpuNoFinding) {
  const FakeMachine machine;
  Report report;
  CheckAmdDriver(machine.host(), {}, report);
  EXPECT_THAT(report.findings(), IsEmpty());
}

}  // namespace
}  // namespace attnd::cli
