// SPDX-License-Identifier: Apache-2.0
//
// Who holds the memory of each AMD GPU, and who would run out of it.
//
// attnd reserves its pool once, at start (--gpu_memory_fraction of all the memory, 0.9 unless
// told), so it never runs out later: it fails to start, or leaves the others too little. Sources:
// amdgpu's mem_info_vram_{total,used}, bytes (Documentation/gpu/amdgpu/driver-misc.rst), and KFD's
// /sys/class/kfd/kfd/proc/<pid>/vram_<gpu_id>, bytes that a process of ROCm holds.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/doctor/checks.h"
#include "client/cli/format.h"

namespace attnd::cli {
namespace {

constexpr double kDefaultFraction = 0.9;         // attnd's own default
constexpr double kLeastFraction = 0.05;          // the least that it takes
constexpr uint64_t kHeadroomBytes = 512u << 20;  // workspaces, and what the driver itself needs

std::string Human(uint64_t bytes) { return HumanBytes(static_cast<double>(bytes)); }

struct Holder {
  std::string name;  // "python3 (process 71)"
  uint64_t bytes = 0;
  bool attnd = false;
};

// The processes that hold memory of the GPU through ROCm, the largest first.
std::vector<Holder> Holders(const Host& host, const AmdGpu& gpu) {
  std::vector<Holder> holders;
  for (const std::string& pid : host.List("/sys/class/kfd/kfd/proc")) {
    const auto bytes =
        host.ReadNumber(absl::StrCat("/sys/class/kfd/kfd/proc/", pid, "/vram_", gpu.kfd_id));
    if (!bytes || *bytes == 0) continue;
    const std::string comm = host.Read(absl::StrCat("/proc/", pid, "/comm")).value_or("");
    holders.push_back(
        {.name = absl::StrCat(comm.empty() ? "a hidden process" : comm, " (process ", pid, ")"),
         .bytes = *bytes,
         .attnd = comm == "attnd"});
  }
  std::sort(holders.begin(), holders.end(),
            [](const Holder& a, const Holder& b) { return a.bytes > b.bytes; });
  return holders;
}

std::string Describe(const std::vector<Holder>& holders) {
  std::vector<std::string> words;
  for (size_t i = 0; i < holders.size() && i < 3; ++i) {
    words.push_back(absl::StrCat(holders[i].name, " ", Human(holders[i].bytes)));
  }
  if (holders.size() > 3) words.push_back(absl::StrCat(holders.size() - 3, " more"));
  return absl::StrJoin(words, ", ");
}

// The fraction, rounded down to hundredths, for which `free` of `total` suffices; 0 for none.
double FittingFraction(uint64_t free, uint64_t total) {
  if (free <= kHeadroomBytes) return 0;
  const double fraction =
      std::floor(100.0 * static_cast<double>(free - kHeadroomBytes) / static_cast<double>(total)) /
      100.0;
  return fraction < kLeastFraction ? 0 : std::min(fraction, kDefaultFraction);
}

}  // namespace

void CheckGpuMemory(const Host& host, const AmdGpus& amd, const DaemonFacts& daemon,
                    Report& report) {
  for (const AmdGpu& gpu : amd.gpus) {
    const auto total = host.ReadNumber(gpu.device + "/mem_info_vram_total");
    const auto used = host.ReadNumber(gpu.device + "/mem_info_vram_used");
    if (gpu.device.empty() || !total || !used || *total == 0 || *used > *total) {
      report.Unknown("vram", gpu.Name() + " does not show mem_info_vram_total and _used");
      continue;
    }
    const uint64_t free = *total - *used;
    const std::vector<Holder> holders = Holders(host, gpu);
    const bool attnd_here =
        std::any_of(holders.begin(), holders.end(), [](const Holder& h) { return h.attnd; });
    std::string found = absl::StrCat(gpu.Name(), ": ", Human(free), " of ", Human(*total), " free");
    if (!holders.empty()) found += "; held by " + Describe(holders);
    const double fraction = FittingFraction(free, *total);

    if (attnd_here || (daemon.on_gpu() && daemon.local && amd.gpus.size() == 1)) {
      // The pool is reserved already: what is left is the others'.
      if (free >= kHeadroomBytes) {
        report.Ok("vram", found);
      } else {
        const uint64_t pool = daemon.stats ? daemon.stats->pool_bytes : 0;
        const double lower = FittingFraction(free + pool / amd.gpus.size(), *total);
        report.Warn(
            "vram", found,
            absl::StrCat("attnd's pool is reserved and safe; other programs are the next to "
                         "run out of memory",
                         lower > 0 ? absl::StrFormat(": restart attnd with "
                                                     "--gpu_memory_fraction %.2f or less",
                                                     lower)
                                   : ": stop one of them",
                         ", or give them smaller batches"));
      }
      continue;
    }
    if (static_cast<double>(free) >= kDefaultFraction * static_cast<double>(*total)) {
      report.Ok("vram", found);
    } else if (fraction > 0) {
      report.Warn(
          "vram", found,
          absl::StrFormat("attnd would not start with its default of 0.9: stop the others, or "
                          "give it --gpu_memory_fraction %.2f",
                          fraction));
    } else {
      report.Warn("vram", found,
                  "no --gpu_memory_fraction fits (the least is 0.05): attnd would not start on it "
                  "until a program there ends or takes less");
    }
  }
}

}  // namespace attnd::cli
