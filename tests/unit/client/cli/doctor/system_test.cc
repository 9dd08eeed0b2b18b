// SPDX-License-Identifier: Apache-2.0
//
// Memory, huge pages, CPU and governor (system.cc, cpu.cc, machine.cc).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/cli/doctor/machine.h"
#include "tests/unit/client/cli/doctor/fake_machine.h"

namespace attnd::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr uint64_t kGiB = uint64_t{1} << 30;

TEST(MachineTest, ReadsTheLimitsOfTheNearestCgroup) {
  FakeMachine machine;
  machine.Write("/proc/self/cgroup", "0::/system.slice/attnd.service\n");
  machine.Write("/sys/fs/cgroup/memory.max", "1073741824\n");
  machine.Write("/sys/fs/cgroup/system.slice/cpu.max", "150000 100000\n");
  EXPECT_EQ(CgroupMemoryLimitBytes(machine.host()), kGiB);
  EXPECT_EQ(CgroupCpuLimit(machine.host()), 1.5);
  machine.Write("/sys/fs/cgroup/memory.max", "max\n");
  machine.Write("/sys/fs/cgroup/system.slice/cpu.max", "max 100000\n");
  EXPECT_FALSE(CgroupMemoryLimitBytes(machine.host()));
  EXPECT_FALSE(CgroupCpuLimit(machine.host()));
}

TEST(MachineTest, ReadsFlagsOfBothArchitectures) {
  FakeMachine machine;
  machine.Write("/proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu avx2 fma\n");
  EXPECT_THAT(CpuFlags(machine.host(), {"fma", "avx512f", "avx2"}), ElementsAre("fma", "avx2"));
  machine.Write("/proc/cpuinfo", "processor\t: 0\nFeatures\t: fp asimd\n");
  EXPECT_THAT(CpuFlags(machine.host(), {"asimd"}), ElementsAre("asimd"));
}

std::string Memory(const FakeMachine& machine) {
  Report report;
  CheckMemory(machine.host(), machine.daemon, report);
  return FindingsOf(report, "memory");
}

TEST(SystemTest, APoolThatFillsTheContainerFails) {
  FakeMachine machine;
  EXPECT_THAT(Memory(machine), HasSubstr("unknown: "));
  machine.Write("/proc/meminfo", "MemTotal:       33554432 kB\nMemAvailable:   16777216 kB\n");
  EXPECT_THAT(Memory(machine), HasSubstr("16.0 GiB of 32.0 GiB available"));
  machine.Write("/proc/self/cgroup", "0::/\n");
  machine.Write("/sys/fs/cgroup/memory.max", "2147483648\n");
  machine.daemon.stats.emplace();
  machine.daemon.stats->devices.push_back({.pool_bytes = 2 * kGiB, .host_memory = true});
  EXPECT_THAT(Memory(machine), HasSubstr("FAIL"));
  machine.daemon.stats->devices[0].host_memory = false;  // a GPU's
  EXPECT_THAT(Memory(machine), HasSubstr("ok  "));
  machine.daemon.stats->devices[0].host_memory = true;
  machine.daemon.local = false;
  EXPECT_THAT(Memory(machine), HasSubstr("ok  ")) << "that pool is elsewhere";
}

TEST(SystemTest, HugePagesThatAreOffAreWorthAWarning) {
  FakeMachine machine;
  const auto find = [&machine] {
    Report report;
    CheckHugePages(machine.host(), report);
    return FindingsOf(report, "huge pages");
  };
  EXPECT_THAT(find(), HasSubstr("unknown: "));
  machine.Write("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
  EXPECT_THAT(find(), HasSubstr("warn"));
  machine.Write("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
  EXPECT_THAT(find(), HasSubstr("ok    huge pages      transparent huge pages: madvise"));
}

TEST(CpuTest, PowersaveIsSlowWhereTheDriverDoesNotScaleByItself) {
  FakeMachine machine;
  const auto find = [&machine] {
    Report report;
    CheckGovernor(machine.host(), report);
    return FindingsOf(report, "governor");
  };
  EXPECT_THAT(find(), HasSubstr("unknown: "));
  const std::string folder = "/sys/devices/system/cpu/cpu0/cpufreq";
  machine.Write(folder + "/scaling_governor", "powersave\n");
  machine.Write(folder + "/scaling_driver", "acpi-cpufreq\n");
  EXPECT_THAT(find(), HasSubstr("warn  governor        powersave (acpi-cpufreq) x 1"));
  machine.Write(folder + "/scaling_driver", "amd-pstate-epp\n");
  machine.Write(folder + "/energy_performance_preference", "balance_performance\n");
  EXPECT_THAT(find(), HasSubstr("ok  "));
  machine.Write(folder + "/energy_performance_preference", "power\n");
  EXPECT_THAT(find(), HasSubstr("warn"));
}

}  // namespace
}  // namespace attnd::cli
