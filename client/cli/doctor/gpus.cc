// SPDX-License-Identifier: Apache-2.0
//
// All checks of GPUs, in the order in which one explains the next: driver, libraries, what is
// visible, memory, speed.
#include "client/cli/doctor/checks.h"

namespace attnd::cli {

void CheckGpus(const Host& host, const DaemonFacts& daemon, Report& report) {
  const AmdGpus amd = ListAmdGpus(host);
  const bool any = !amd.gpus.empty() || amd.hidden_nodes > 0 || host.Exists("/dev/kfd") ||
                   !ListPciGpus(host, kAmdVendor).empty();
  CheckAmdDriver(host, amd, report);
  if (any) CheckRocm(host, report);
  // Not chosen by ?: with a prvalue on each side: GCC 12 under TSan takes that for uninitialized.
  DaemonEnvironment environment{.variables = host.environment(), .of = "this shell"};
  if (daemon.local) environment = FindDaemonEnvironment(host);
  CheckAmdTargets(amd, daemon, environment.variables, report);
  CheckVisibleDevices(amd, environment, report);
  CheckRuntimeVariables(amd, environment, report);
  CheckGpuMemory(host, amd, daemon, report);
  CheckGpuClocks(host, amd, report);
  CheckGpuHeat(host, amd, report);
  CheckGpuLink(host, amd, report);
  // PyTorch's business: the shell that asks is closer to it than the daemon is.
  CheckHipblaslt(host, amd, host.environment(), report);
  CheckNvidia(host, report);
  if (!any && ListPciGpus(host, kNvidiaVendor).empty() &&
      !host.Exists("/proc/driver/nvidia/version")) {
    report.Ok("gpu", "none here, AMD or NVIDIA: attention runs on the CPU");
  }
  CheckLimits(any, report);
}

}  // namespace attnd::cli
