// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/client/cli/doctor/fake_machine.h"

namespace attnd::cli {
namespace {

using testing::HasSubstr;

class GpuClocksTest : public testing::Test {
 protected:
  GpuClocksTest() { machine_.AddRadeon(); }
  void Set(const std::string& file, const std::string& text) {
    machine_.Write(std::string(kRadeonDevice) + "/" + file, text);
  }
  std::string Find(const std::string& check) { return FindingsOf(machine_.Examine(), check); }

  FakeMachine machine_;
};

TEST_F(GpuClocksTest, ALevelHeldLowIsNamedWithItsFile) {
  for (const char* level : {"low", "profile_min_sclk", "profile_min_mclk"}) {
    Set("power_dpm_force_performance_level", level);
    EXPECT_THAT(Find("power level"),
                HasSubstr(std::string("warn  power level     GPU 0 (gfx1100): ") + level));
    EXPECT_THAT(Find("power level"),
                HasSubstr("echo auto > /sys/class/drm/renderD128/device/power_dpm_force_performance"
                          "_level"));
  }
  Set("power_dpm_force_performance_level", "profile_peak");
  EXPECT_THAT(Find("power level"), HasSubstr("ok  "));
}

TEST_F(GpuClocksTest, LowClocksMeanSomethingUnderLoadOnly) {
  EXPECT_THAT(Find("clocks"), HasSubstr("500 of 2482 MHz at 0 % load: not busy enough to tell"));
  Set("gpu_busy_percent", "97\n");
  EXPECT_THAT(Find("clocks"), HasSubstr("warn"));
  EXPECT_THAT(Find("clocks"), HasSubstr("it is throttled"));
  Set("pp_dpm_sclk", "0: 500Mhz\n1: 2304Mhz *\n2: 2482Mhz\n");
  EXPECT_THAT(Find("clocks"),
              HasSubstr("ok    clocks          GPU 0 (gfx1100): 2304 of 2482 MHz at 97 % load"));
}

TEST_F(GpuClocksTest, ReadsTheLineOfDeepSleep) {
  Set("pp_dpm_sclk", "S: 19Mhz *\n0: 500Mhz\n1: 2482Mhz\n");
  EXPECT_THAT(Find("clocks"), HasSubstr("19 of 2482 MHz"));
}

TEST_F(GpuClocksTest, AFileWithoutALevelIsUnknown) {
  Set("pp_dpm_sclk", "\n");
  EXPECT_THAT(Find("clocks"), HasSubstr("unknown: GPU 0 (gfx1100) does not show pp_dpm_sclk"));
}

TEST_F(GpuClocksTest, WarnsOfHeatAndOfALoweredPowerLimit) {
  Set("hwmon/hwmon3/temp2_input", "107000\n");
  EXPECT_THAT(Find("heat"), HasSubstr("close to where it throttles"));
  Set("hwmon/hwmon3/temp2_input", "60000\n");
  Set("hwmon/hwmon3/power1_cap", "150000000\n");
  EXPECT_THAT(Find("heat"), HasSubstr("capped below the default of 303 W: echo 303000000 >"));
}

}  // namespace
}  // namespace attnd::cli
