// SPDX-License-Identifier: Apache-2.0
#include "client/cli/doctor/amd_gpu.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/client/cli/doctor/fake_machine.h"

namespace attnd::cli {
namespace {

TEST(AmdGpuTest, TargetNamesHaveAHexadecimalStepping) {
  EXPECT_EQ(TargetName(110000), "gfx1100");
  EXPECT_EQ(TargetName(90010), "gfx90a");
  EXPECT_EQ(TargetName(90402), "gfx942");
  EXPECT_EQ(TargetName(120001), "gfx1201");
}

TEST(AmdGpuTest, CountsGpusInTheOrderOfNodesAndSkipsCpus) {
  FakeMachine machine;
  machine.AddRadeon();
  // Ten nodes: "10" comes after "2", which it does not as text.
  for (const char* node : {"10", "2"}) {
    machine.Write(std::string("/sys/class/kfd/kfd/topology/nodes/") + node + "/properties",
                  std::string("simd_count 8\nsimd_per_cu 4\ngfx_target_version ") +
                      (node[0] == '2' ? "90402" : "90010") + "\ndrm_render_minor 0\n");
  }
  const AmdGpus amd = ListAmdGpus(machine.host());
  ASSERT_EQ(amd.gpus.size(), 3);
  EXPECT_EQ(amd.gpus[0].Name(), "GPU 0 (gfx1100)");
  EXPECT_EQ(amd.gpus[1].Name(), "GPU 1 (gfx942)");
  EXPECT_EQ(amd.gpus[2].Name(), "GPU 2 (gfx90a)");
  EXPECT_EQ(amd.gpus[0].compute_units, 96);
  EXPECT_EQ(amd.gpus[0].kfd_id, 51234);
  EXPECT_EQ(amd.gpus[0].render_node, "/dev/dri/renderD128");
  EXPECT_EQ(amd.gpus[0].device, kRadeonDevice);
  EXPECT_EQ(amd.gpus[1].device, "");
}

TEST(AmdGpuTest, CountsTheNodesThatItMayNotRead) {
  FakeMachine machine;
  machine.AddRadeon();
  machine.Write("/sys/class/kfd/kfd/topology/nodes/1/properties", "");
  const AmdGpus amd = ListAmdGpus(machine.host());
  EXPECT_TRUE(amd.gpus.empty());
  EXPECT_EQ(amd.hidden_nodes, 1);
}

TEST(AmdGpuTest, FindsDisplaysAndAcceleratorsOfOneVendorOnTheBus) {
  FakeMachine machine;
  machine.AddRadeon();
  machine.Write("/sys/bus/pci/devices/0000:0a:00.0/vendor", "0x1002\n");
  machine.Write("/sys/bus/pci/devices/0000:0a:00.0/class", "0x120000\n");
  machine.Write("/sys/bus/pci/devices/0000:0b:00.0/vendor", "0x1002\n");
  machine.Write("/sys/bus/pci/devices/0000:0b:00.0/class", "0x040300\n");  // its audio
  const std::vector<PciGpu> cards = ListPciGpus(machine.host(), kAmdVendor);
  ASSERT_EQ(cards.size(), 2);
  EXPECT_EQ(cards[0].address, "0000:03:00.0");
  EXPECT_EQ(cards[0].driver, "amdgpu");
  EXPECT_EQ(cards[1].driver, "");
  EXPECT_TRUE(ListPciGpus(machine.host(), kNvidiaVendor).empty());
}

TEST(AmdGpuTest, KernelTargetsAreThoseThatTheBuildNames) {
  EXPECT_THAT(KernelTargets(), testing::Each(testing::StartsWith("gfx")));
  EXPECT_FALSE(KernelTargets().empty());
}

}  // namespace
}  // namespace attnd::cli
