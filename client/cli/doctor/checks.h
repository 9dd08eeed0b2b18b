// SPDX-License-Identifier: Apache-2.0
//
// The checks of `attnctl doctor`, by subject: each looks at one thing of the machine and adds what
// it found to the report, with what to do.
//
// A check of GPUs adds nothing where there is no such GPU. All but CheckConnection read the Host
// alone, so tests give them trees of their own. Not thread-safe: they share the report.
//
//   Report report;
//   CheckAmdDriver(host, ListAmdGpus(host), report);
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "client/cli/command.h"
#include "client/cli/doctor/amd_gpu.h"
#include "client/cli/doctor/host.h"
#include "client/cli/doctor/report.h"
#include "client/cpp/types.h"

namespace attnd::cli {

// What the checks of the machine need to know of the daemon.
struct DaemonFacts {
  std::optional<client::Stats> stats{};  // nothing where it does not answer
  std::string isa{};
  double round_trip_s = 0;
  bool local = true;  // on this machine, as far as its address tells

  bool on_gpu() const { return stats && stats->backend == "hip"; }
};

// connection.cc
bool IsLocalAddress(std::string_view address);
DaemonFacts CheckConnection(const Globals& globals, Report& report);
void CheckMetrics(const Globals& globals, Report& report);
void CheckDistance(const Globals& globals, const DaemonFacts& daemon, Report& report);

// security.cc: what this client shows the daemon, from the flags of all commands.
void CheckCredentials(const client::Credentials& credentials, absl::Time now, Report& report);
// The daemon's own files, where this machine has them and they were named.
struct DaemonFiles {
  std::string cert{}, key{}, client_ca{}, tenants{};
};
void CheckDaemonFiles(const DaemonFiles& files, absl::Time now, Report& report);

// system.cc, cpu.cc
void CheckMemory(const Host& host, const DaemonFacts& daemon, Report& report);
void CheckHugePages(const Host& host, Report& report);
void CheckLimits(bool gpu, Report& report);
void CheckClock(const Host& host, Report& report);
void CheckCpu(const Host& host, const DaemonFacts& daemon, Report& report);
void CheckGovernor(const Host& host, Report& report);

// gpus.cc: all of the checks below, where there are GPUs; says so where there are none.
void CheckGpus(const Host& host, const DaemonFacts& daemon, Report& report);
// amd_driver.cc: module, /dev/kfd, render nodes, the user's groups.
void CheckAmdDriver(const Host& host, const AmdGpus& amd, Report& report);
// amd_target.cc: code objects for the GPUs that there are; HSA_OVERRIDE_GFX_VERSION.
void CheckAmdTargets(const AmdGpus& amd, const DaemonFacts& daemon, const Environment& environment,
                     Report& report);
// rocm.cc: the user-space libraries, and the hipBLASLt warning of PyTorch.
void CheckRocm(const Host& host, Report& report);
void CheckHipblaslt(const Host& host, const AmdGpus& amd, const Environment& environment,
                    Report& report);
// environment.cc: variables that change what the runtime does.
struct DaemonEnvironment {
  Environment variables;
  std::string of;  // "attnd (process 123)", "this shell"
};
DaemonEnvironment FindDaemonEnvironment(const Host& host);
void CheckVisibleDevices(const AmdGpus& amd, const DaemonEnvironment& environment, Report& report);
void CheckRuntimeVariables(const AmdGpus& amd, const DaemonEnvironment& environment,
                           Report& report);
// gpu_memory.cc: who holds the VRAM and who would run out of it.
void CheckGpuMemory(const Host& host, const AmdGpus& amd, const DaemonFacts& daemon,
                    Report& report);
// gpu_clocks.cc: performance level, clocks, heat and power.
void CheckGpuClocks(const Host& host, const AmdGpus& amd, Report& report);
void CheckGpuHeat(const Host& host, const AmdGpus& amd, Report& report);
// gpu_link.cc: PCIe width and speed, large BAR, IOMMU.
void CheckGpuLink(const Host& host, const AmdGpus& amd, Report& report);
// nvidia.cc
void CheckNvidia(const Host& host, Report& report);

}  // namespace attnd::cli
