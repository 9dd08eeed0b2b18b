// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/unit/client/cli/doctor/fake_machine.h"

namespace attnd::cli {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

TEST(EnvironmentTest, TheDaemonsEnvironmentCountsWhereItMayBeRead) {
  FakeMachine machine;
  machine.AddRadeon();
  machine.environment["HIP_VISIBLE_DEVICES"] = "9";
  EXPECT_THAT(FindingsOf(machine.Examine(), "visible gpus"), HasSubstr("in this shell"));
  machine.Write("/proc/42/comm", "attnd\n");
  constexpr char kVariables[] = "PATH=/bin\0HIP_VISIBLE_DEVICES=0";  // and a NUL at its end
  machine.Write("/proc/42/environ", std::string(kVariables, sizeof(kVariables)));
  const std::string found = FindingsOf(machine.Examine(), "visible gpus");
  EXPECT_THAT(found, HasSubstr("ok    visible gpus    GPU 0 (gfx1100) of 1; HIP_VISIBLE_DEVICES=0 "
                               "in attnd (process 42)"));
}

TEST(EnvironmentTest, TwoDaemonsAreNotGuessedBetween) {
  FakeMachine machine;
  machine.AddRadeon();
  for (const char* pid : {"42", "43"}) {
    machine.Write(absl::StrCat("/proc/", pid, "/comm"), "attnd\n");
    machine.Write(absl::StrCat("/proc/", pid, "/environ"), "HIP_VISIBLE_DEVICES=-1");
  }
  EXPECT_THAT(FindingsOf(machine.Examine(), "visible gpus"), HasSubstr("there are several attnd"));
}

TEST(EnvironmentTest, HidingEveryGpuFails) {
  FakeMachine machine;
  machine.AddRadeon();
  machine.environment["ROCR_VISIBLE_DEVICES"] = "";
  EXPECT_THAT(FindingsOf(machine.Examine(), "visible gpus"),
              HasSubstr("FAIL  visible gpus    none of 1; ROCR_VISIBLE_DEVICES= in this shell"));
}

TEST(EnvironmentTest, ExplainsTheVariablesThatSlowThingsDown) {
  FakeMachine machine;
  machine.AddRadeon();
  machine.environment = {
      {"HSA_ENABLE_SDMA", "0"}, {"HSA_XNACK", "1"}, {"HIP_LAUNCH_BLOCKING", "1"}};
  const Report report = machine.Examine();
  EXPECT_THAT(FindingsOf(report, "copy engines"), HasSubstr("copies are made by kernels"));
  EXPECT_THAT(FindingsOf(report, "xnack"), HasSubstr("which these GPUs do not have"));
  EXPECT_THAT(FindingsOf(report, "serialised"),
              HasSubstr("warn  serialised      HIP_LAUNCH_BLOCKING=1"));
  AmdGpus instinct;
  instinct.gpus.push_back({.target = "gfx90a"});
  Report of_instinct;
  CheckRuntimeVariables(instinct, {.variables = {{"HSA_XNACK", "1"}}, .of = "this shell"},
                        of_instinct);
  EXPECT_THAT(FindingsOf(of_instinct, "xnack"), HasSubstr("warn"));
  Report of_none;
  CheckRuntimeVariables({}, {.variables = machine.environment, .of = "this shell"}, of_none);
  EXPECT_THAT(of_none.findings(), IsEmpty());
}

}  // namespace
}  // namespace attnd::cli
