// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/unit/client/cli/doctor/fake_machine.h"

namespace attnd::cli {
namespace {

using testing::HasSubstr;

constexpr uint64_t kGiB = uint64_t{1} << 30;

class GpuMemoryTest : public testing::Test {
 protected:
  GpuMemoryTest() {
    machine_.AddRadeon();
    Set("mem_info_vram_total", 24 * kGiB);
  }
  void Set(const std::string& file, uint64_t bytes) {
    machine_.Write(absl::StrCat(kRadeonDevice, "/", file), absl::StrCat(bytes, "\n"));
  }
  void AddHolder(int pid, const std::string& name, uint64_t bytes) {
    machine_.Write(absl::StrCat("/proc/", pid, "/comm"), name + "\n");
    machine_.Write(absl::StrCat("/sys/class/kfd/kfd/proc/", pid, "/vram_51234"),
                   absl::StrCat(bytes, "\n"));
  }
  std::string Find() { return FindingsOf(machine_.Examine(), "vram"); }

  FakeMachine machine_;
};

TEST_F(GpuMemoryTest, ANearlyFullCardSaysWhoHoldsItAndThatNothingFits) {
  Set("mem_info_vram_used", 23 * kGiB);
  AddHolder(71, "python3", 22 * kGiB);
  EXPECT_THAT(Find(),
              HasSubstr("1.00 GiB of 24.0 GiB free; held by python3 (process 71) 22.0 GiB"));
  EXPECT_THAT(Find(), HasSubstr("no --gpu_memory_fraction fits"));
}

TEST_F(GpuMemoryTest, ASharedCardGetsTheFractionThatFits) {
  Set("mem_info_vram_used", 12 * kGiB);
  // (24 - 12 - 0.5) / 24 = 0.479
  EXPECT_THAT(Find(), HasSubstr("warn"));
  EXPECT_THAT(Find(), HasSubstr("--gpu_memory_fraction 0.47"));
}

TEST_F(GpuMemoryTest, BesideARunningDaemonTheOthersAreTheNextToRunOut) {
  machine_.daemon.stats.emplace();
  machine_.daemon.stats->backend = "hip";
  machine_.daemon.stats->pool_bytes = 21 * kGiB;
  AddHolder(5, "attnd", 21 * kGiB);
  AddHolder(71, "python3", 2 * kGiB);
  Set("mem_info_vram_used", 23 * kGiB);
  EXPECT_THAT(Find(), HasSubstr("ok  ")) << "1 GiB is left";
  Set("mem_info_vram_used", 24 * kGiB - (100u << 20));
  EXPECT_THAT(Find(), HasSubstr("attnd's pool is reserved and safe"));
  EXPECT_THAT(Find(), HasSubstr("--gpu_memory_fraction 0.85 or less"));  // (21 + 0.1 - 0.5) / 24
}

TEST_F(GpuMemoryTest, NonsenseIsUnknown) {
  Set("mem_info_vram_used", 25 * kGiB);
  EXPECT_THAT(Find(), HasSubstr("unknown: "));
}

}  // namespace
}  // namespace attnd::cli
