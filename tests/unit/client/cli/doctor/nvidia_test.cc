// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/client/cli/doctor/fake_machine.h"

namespace attnd::cli {
namespace {

using testing::HasSubstr;

class NvidiaTest : public testing::Test {
 protected:
  NvidiaTest() {
    machine_.Write("/proc/driver/nvidia/gpus/0000:01:00.0/information",
                   "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 120\n");
    for (const char* path : {"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia0"}) {
      machine_.Write(path, "");
      machine_.SetMode(path, 0666);
    }
    SetVersion("580.95.05");
  }
  void SetVersion(const std::string& version) {
    machine_.Write("/proc/driver/nvidia/version",
                   "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  " + version +
                       "  Release Build\nGCC version:  gcc version 12.2.0\n");
  }
  std::string Find(const std::string& check) { return FindingsOf(machine_.Examine(), check); }

  FakeMachine machine_;
};

TEST_F(NvidiaTest, ReadsDriverAndModelWithoutAnyTool) {
  EXPECT_THAT(Find("nvidia driver"),
              HasSubstr("ok    nvidia driver   580.95.05; NVIDIA H100 80GB HBM3"));
  EXPECT_THAT(Find("nvidia devices"), HasSubstr("ok  "));
}

TEST_F(NvidiaTest, AnOldDriverCannotRunCuda13) {
  SetVersion("535.129.03");
  EXPECT_THAT(Find("nvidia driver"), HasSubstr("needs driver 580 or later"));
}

TEST_F(NvidiaTest, SaysWhatOfTheDevicesIsMissing) {
  machine_.Remove("/dev/nvidia-uvm");
  machine_.SetMode("/dev/nvidia0", 0600);
  EXPECT_THAT(Find("nvidia devices"), HasSubstr("/dev/nvidia-uvm (absent), /dev/nvidia0 (closed)"));
}

TEST_F(NvidiaTest, ACardWithoutADriverIsWorthAWarning) {
  machine_.Remove("/proc/driver");
  machine_.Write("/sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n");
  machine_.Write("/sys/bus/pci/devices/0000:01:00.0/class", "0x030200\n");
  EXPECT_THAT(Find("nvidia driver"), HasSubstr("warn  nvidia driver   not loaded"));
}

}  // namespace
}  // namespace attnd::cli
