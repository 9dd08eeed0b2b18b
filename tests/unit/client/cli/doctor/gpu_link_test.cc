// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/client/cli/doctor/fake_machine.h"

namespace attnd::cli {
namespace {

using testing::HasSubstr;

// The card's own port to the slot, and the slot's port.
constexpr char kCardPort[] = "/sys/devices/pci0000:00/0000:00:01.1/0000:01:00.0";
constexpr char kSlotPort[] = "/sys/devices/pci0000:00/0000:00:01.1";

class GpuLinkTest : public testing::Test {
 protected:
  GpuLinkTest() { machine_.AddRadeon(); }
  void Set(const std::string& folder, const std::string& file, const std::string& text) {
    machine_.Write(folder + "/" + file, text);
  }
  std::string Find(const std::string& check) { return FindingsOf(machine_.Examine(), check); }

  FakeMachine machine_;
};

// The GPU's own link, inside the card, says x16 all the same.
TEST_F(GpuLinkTest, ANarrowSlotShowsAtTheCardsEdge) {
  Set(kCardPort, "current_link_width", "4\n");
  Set(kSlotPort, "current_link_width", "4\n");
  EXPECT_THAT(Find("pcie"), HasSubstr("warn  pcie            GPU 0 (gfx1100): x4 of x16"));
  EXPECT_THAT(Find("pcie"), HasSubstr("fewer lanes"));
}

TEST_F(GpuLinkTest, ACardWithEightLanesIsNotNarrow) {
  for (const char* folder : {kCardPort, kSlotPort}) Set(folder, "current_link_width", "8\n");
  Set(kCardPort, "max_link_width", "8\n");
  EXPECT_THAT(Find("pcie"), HasSubstr("ok    pcie            GPU 0 (gfx1100): x8 of x8"));
}

TEST_F(GpuLinkTest, ASlowLinkIsAFaultUnderLoadOnly) {
  Set(kCardPort, "current_link_speed", "2.5 GT/s PCIe\n");
  EXPECT_THAT(Find("pcie"), HasSubstr("2.5 of 16.0 GT/s (links slow down when idle)"));
  Set(kRadeonDevice, "gpu_busy_percent", "90\n");
  EXPECT_THAT(Find("pcie"), HasSubstr("warn"));
}

TEST_F(GpuLinkTest, ASmallBarIsNamed) {
  Set(kRadeonDevice, "mem_info_vis_vram_total", "268435456\n");
  EXPECT_THAT(Find("large bar"), HasSubstr("the host reaches 256 MiB of 24.0 GiB"));
  EXPECT_THAT(Find("large bar"), HasSubstr("Resizable BAR"));
}

TEST_F(GpuLinkTest, SaysHowTheIommuIsSet) {
  EXPECT_THAT(Find("iommu"), HasSubstr("off"));
  machine_.Write("/sys/class/iommu/ivhd0/devices", "");
  EXPECT_THAT(Find("iommu"), HasSubstr("unknown: "));
  machine_.Write(std::string(kRadeonDevice) + "/iommu_group/type", "identity\n");
  EXPECT_THAT(Find("iommu"), HasSubstr("on, passing through"));
  machine_.Write(std::string(kRadeonDevice) + "/iommu_group/type", "DMA-FQ\n");
  EXPECT_THAT(Find("iommu"), HasSubstr("ok    iommu           on, translating (DMA-FQ)"));
}

}  // namespace
}  // namespace attnd::cli
