// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/client/cli/doctor/fake_machine.h"

namespace attnd::cli {
namespace {

using testing::HasSubstr;

std::string Rocm(const FakeMachine& machine) {
  Report report;
  CheckRocm(machine.host(), report);
  return FindingsOf(report, "rocm");
}

std::string Hipblaslt(const FakeMachine& machine, const Environment& environment = {}) {
  Report report;
  AmdGpus amd;
  amd.gpus.push_back({.target = "gfx1100"});
  CheckHipblaslt(machine.host(), amd, environment, report);
  return FindingsOf(report, "hipblaslt");
}

TEST(RocmTest, FindsDebiansPackages) {
  FakeMachine machine;
  machine.Write("/usr/lib/x86_64-linux-gnu/libamdhip64.so.6", "");
  machine.Write("/var/lib/dpkg/status",
                "Package: libamdhip64-5\nStatus: deinstall ok config-files\nVersion: 5.7.1-6\n\n"
                "Package: libamdhip64-6\nStatus: install ok installed\nVersion: 6.4.3-2\n\n");
  EXPECT_THAT(Rocm(machine), HasSubstr("ok    rocm            6.4.3-2 (Debian's libamdhip64), "
                                       "/usr/lib/x86_64-linux-gnu/libamdhip64.so.6"));
}

TEST(RocmTest, FallsBackToTheLibrarysName) {
  FakeMachine machine;
  machine.Write("/opt/rocm-6.3.0/lib/libamdhip64.so.6.3.60300", "");
  EXPECT_THAT(Rocm(machine), HasSubstr("6.3.60300 (the library's name)"));
}

TEST(RocmTest, NoneAndTooOldFail) {
  FakeMachine machine;
  EXPECT_THAT(Rocm(machine), HasSubstr("FAIL  rocm            no libamdhip64"));
  machine.Write("/opt/rocm/lib/libamdhip64.so", "");
  EXPECT_THAT(Rocm(machine), HasSubstr("unknown: /opt/rocm/lib/libamdhip64.so is there"));
  machine.Write("/opt/rocm/.info/version", "5.7.1-98\n");
  EXPECT_THAT(Rocm(machine), HasSubstr("attnd needs ROCm 6.0 or later"));
}

TEST(HipblasltTest, SaysWhyPytorchWarnsAndThatAttndIsNotConcerned) {
  FakeMachine machine;
  EXPECT_THAT(Hipblaslt(machine), HasSubstr("ok    hipblaslt       not installed"));
  machine.Write("/opt/rocm/lib/libhipblaslt.so.0", "");
  EXPECT_THAT(Hipblaslt(machine), HasSubstr("unknown: "));
  machine.Write("/opt/rocm/lib/hipblaslt/library/TensileLibrary_lazy_gfx90a.dat", "");
  EXPECT_THAT(Hipblaslt(machine), HasSubstr("has no kernels for GPU 0 (gfx1100)"));
  EXPECT_THAT(Hipblaslt(machine), HasSubstr("TORCH_BLAS_PREFER_HIPBLASLT=0"));
  machine.Write("/opt/rocm/lib/hipblaslt/library/TensileLibrary_lazy_gfx1100.dat", "");
  EXPECT_THAT(Hipblaslt(machine), HasSubstr("has kernels for every GPU here"));
  EXPECT_THAT(Hipblaslt(machine, {{"HIPBLASLT_TENSILE_LIBPATH", "/nowhere"}}),
              HasSubstr("not in /nowhere; HIPBLASLT_TENSILE_LIBPATH=/nowhere"));
}

}  // namespace
}  // namespace attnd::cli
