// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/client/cli/doctor/fake_machine.h"

namespace attnd::cli {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

Report Check(const std::string& target, const std::string& override_version,
             const std::string& backend = "") {
  AmdGpus amd;
  amd.gpus.push_back({.target = target});
  DaemonFacts daemon;
  if (!backend.empty()) {
    daemon.stats.emplace();
    daemon.stats->backend = backend;
  }
  Environment environment;
  if (!override_version.empty()) environment["HSA_OVERRIDE_GFX_VERSION"] = override_version;
  Report report;
  CheckAmdTargets(amd, daemon, environment, report);
  return report;
}

TEST(AmdTargetTest, AnUnknownGfxIsNamedWithThoseThatThereAre) {
  const Report report = Check("gfx1030", "");
  EXPECT_EQ(report.Count(Verdict::kWarn), 1);
  EXPECT_THAT(FindingsOf(report, "kernels"),
              HasSubstr("GPU 0 (gfx1030): attnd has none for it, only for gfx"));
  EXPECT_THAT(FindingsOf(report, "kernels"), HasSubstr("attnd serves on the CPU here"));
}

TEST(AmdTargetTest, ARelativeOfKnownGpusMayTryTheirKernels) {
  EXPECT_THAT(FindingsOf(Check("gfx1151", ""), "kernels"),
              HasSubstr("HSA_OVERRIDE_GFX_VERSION=11.0.0"));
  EXPECT_THAT(FindingsOf(Check("gfx1200", ""), "kernels"),
              HasSubstr("HSA_OVERRIDE_GFX_VERSION=12.0.1"));
}

TEST(AmdTargetTest, AnOverrideIsJudgedByWhatItClaims) {
  EXPECT_THAT(FindingsOf(Check("gfx1151", "11.0.0"), "gfx override"),
              HasSubstr("GPUs run the kernels of gfx1100"));
  EXPECT_THAT(FindingsOf(Check("gfx1151", "11.0.0"), "kernels"),
              HasSubstr("code objects for gfx1100"));
  EXPECT_THAT(FindingsOf(Check("gfx1100", "11.0.0"), "gfx override"),
              HasSubstr("every GPU here has kernels of its own"));
  EXPECT_THAT(FindingsOf(Check("gfx1100", "10.3.0"), "gfx override"),
              HasSubstr("FAIL  gfx override    HSA_OVERRIDE_GFX_VERSION=10.3.0 makes every GPU "
                        "gfx1030"));
  EXPECT_THAT(FindingsOf(Check("gfx1100", "navi"), "gfx override"), HasSubstr("is no version"));
}

TEST(AmdTargetTest, ADaemonOnTheCpuBesideAUsableGpuIsWorthAWarning) {
  EXPECT_THAT(FindingsOf(Check("gfx1100", "", "cpu"), "backend"), HasSubstr("--backend=hip"));
  EXPECT_THAT(FindingsOf(Check("gfx1030", "", "cpu"), "backend"), IsEmpty());
  EXPECT_THAT(FindingsOf(Check("gfx1100", "", "hip"), "backend"), IsEmpty());
}

}  // namespace
}  // namespace attnd::cli
