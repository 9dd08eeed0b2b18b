// SPDX-License-Identifier: Apache-2.0
//
// The CPU: which vector extensions it has and which the daemon uses, how many of it the container
// may have, whether its governor lets it run fast.
//
// Source: the kernel's Documentation/admin-guide/pm/{cpufreq,intel_pstate,amd-pstate}.rst. Under
// intel_pstate and amd-pstate-epp the governor `powersave` is the usual one, and
// energy_performance_preference decides; under other drivers it is the lowest frequency for good.
#include <algorithm>
#include <map>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/doctor/checks.h"
#include "client/cli/doctor/machine.h"
#include "client/cli/doctor/text.h"

namespace attnd::cli {

void CheckCpu(const Host& host, const DaemonFacts& daemon, Report& report) {
  const auto flags = CpuFlags(host, {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_bf16",
                                     "avx512_fp16", "amx_tile", "asimd", "asimdhp", "sve"});
  const unsigned cores = std::thread::hardware_concurrency();
  std::string found =
      absl::StrFormat("%d hardware threads; %s", cores,
                      flags.empty() ? "no known vector extension" : absl::StrJoin(flags, " "));
  const auto limit = CgroupCpuLimit(host);
  if (limit) found += absl::StrFormat("; container limit %.1f CPUs", *limit);
  if (!daemon.isa.empty()) {
    found += absl::StrCat("; the daemon uses ", daemon.isa, daemon.local ? "" : " (elsewhere)");
  }
  const auto has = [&flags](const char* flag) {
    return std::find(flags.begin(), flags.end(), flag) != flags.end();
  };
  const bool cpu_backend = !daemon.on_gpu();
  if (cpu_backend && !has("avx2") && !has("asimd")) {
    report.Warn("cpu", found, "attention on this CPU is several times slower than with AVX2");
  } else if (limit && *limit + 0.5 < cores) {
    report.Warn("cpu", found,
                absl::StrFormat("start attnd with --num_threads %d: more threads than the limit "
                                "wait for each other",
                                std::max(1, static_cast<int>(*limit))));
  } else {
    report.Ok("cpu", found);
  }
}

void CheckGovernor(const Host& host, Report& report) {
  constexpr char kCpus[] = "/sys/devices/system/cpu";
  std::map<std::string, int> cores;  // by "governor, driver, preference"
  bool slow = false;
  for (const std::string& name : host.List(kCpus)) {
    if (name.rfind("cpu", 0) != 0 || !ToNumber(name.substr(3))) continue;
    const std::string folder = absl::StrCat(kCpus, "/", name, "/cpufreq");
    const auto governor = host.Read(folder + "/scaling_governor");
    if (!governor) continue;
    const std::string driver = host.Read(folder + "/scaling_driver").value_or("unknown driver");
    const auto preference = host.Read(folder + "/energy_performance_preference");
    const bool self_scaling = driver == "intel_pstate" || driver == "amd-pstate-epp";
    slow = slow || (self_scaling ? preference == "power" : *governor == "powersave");
    ++cores[absl::StrCat(*governor, " (", driver, preference ? ", " + *preference : "", ")")];
  }
  if (cores.empty()) {
    return report.Unknown("governor", "no cpufreq here: the hypervisor or the firmware decides");
  }
  std::vector<std::string> found;
  found.reserve(cores.size());
  for (const auto& [setting, count] : cores) found.push_back(absl::StrCat(setting, " x ", count));
  if (slow) {
    report.Warn("governor", absl::StrJoin(found, ", "),
                "cpupower frequency-set -g performance (or schedutil), or `echo performance` into "
                "each energy_performance_preference");
  } else {
    report.Ok("governor", absl::StrJoin(found, ", "));
  }
}

}  // namespace attnd::cli
