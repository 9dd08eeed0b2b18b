// SPDX-License-Identifier: Apache-2.0
//
// Whole machines: what the doctor says of each, and that it says nothing else.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/client/cli/doctor/fake_machine.h"

namespace attnd::cli {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

std::string AllOf(const Report& report) {
  std::string text;
  for (const Finding& finding : report.findings()) text += ToText(finding, /*colors=*/false);
  return text;
}

TEST(GpusTest, AHealthyRadeonGivesNoComplaint) {
  FakeMachine machine;
  machine.AddRadeon();
  const Report report = machine.Examine();
  for (const Verdict verdict : {Verdict::kFail, Verdict::kWarn, Verdict::kUnknown}) {
    // The limits of the process that runs the test are real.
    for (const Finding& finding : report.findings()) {
      if (finding.check == "nofile" || finding.check == "memlock") continue;
      EXPECT_NE(finding.verdict, verdict) << ToText(finding, false);
    }
  }
  EXPECT_THAT(FindingsOf(report, "amd gpus"), HasSubstr("GPU 0 (gfx1100), 96 compute units"));
  EXPECT_THAT(FindingsOf(report, "rocm"), HasSubstr("6.4.1-83 (/opt/rocm/.info/version)"));
  EXPECT_THAT(FindingsOf(report, "vram"), HasSubstr("24.0 GiB of 24.0 GiB free"));
  EXPECT_THAT(FindingsOf(report, "heat"), HasSubstr("edge 43 C, junction 47 C, 28 of 303 W"));
  EXPECT_THAT(FindingsOf(report, "pcie"), HasSubstr("x16 of x16, 16.0 of 16.0 GT/s"));
}

TEST(GpusTest, NoGpuIsNoFault) {
  const FakeMachine machine;
  const Report report = machine.Examine();
  EXPECT_EQ(report.Count(Verdict::kFail), 0) << AllOf(report);
  EXPECT_THAT(FindingsOf(report, "gpu"), HasSubstr("attention runs on the CPU"));
  EXPECT_THAT(FindingsOf(report, "rocm"), IsEmpty()) << "nobody needs ROCm here";
}

TEST(GpusTest, ACardWithoutADriverFailsOnceForTheDriver) {
  FakeMachine machine;
  machine.AddRadeonOnBus();
  machine.Write("/opt/rocm/.info/version", "6.4.1-83\n");
  machine.Write("/opt/rocm/lib/libamdhip64.so.6", "");
  const Report report = machine.Examine();
  EXPECT_EQ(report.Count(Verdict::kFail), 1) << AllOf(report);
  EXPECT_THAT(FindingsOf(report, "amdgpu driver"),
              HasSubstr("FAIL  amdgpu driver   not loaded, though there is an AMD GPU at "
                        "0000:03:00.0"));
  EXPECT_THAT(FindingsOf(report, "amdgpu driver"), HasSubstr("modprobe amdgpu"));
  EXPECT_THAT(FindingsOf(report, "/dev/kfd"), IsEmpty()) << "that follows from the driver";
}

// Every file that a check reads may be missing: the answer is "unknown", never a guess or a crash.
TEST(GpusTest, AMachineThatShowsLittleGivesUnknowns) {
  FakeMachine machine;
  machine.AddRadeon();
  machine.Remove(kRadeonDevice);
  const Report report = machine.Examine();
  EXPECT_EQ(report.Count(Verdict::kFail), 0) << AllOf(report);
  for (const char* check : {"vram", "clocks", "pcie"}) {
    EXPECT_THAT(FindingsOf(report, check), HasSubstr("?     ")) << check;
    EXPECT_THAT(FindingsOf(report, check), HasSubstr("unknown: ")) << check;
  }
  EXPECT_THAT(AllOf(report), Not(HasSubstr("x0")));
}

}  // namespace
}  // namespace attnd::cli
