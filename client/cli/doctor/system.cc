// SPDX-License-Identifier: Apache-2.0
//
// The machine under the daemon: memory, huge pages, limits of the process, its clock.
#include <sys/resource.h>
#include <sys/timex.h>
#include <algorithm>
#include <ctime>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/doctor/checks.h"
#include "client/cli/doctor/machine.h"
#include "client/cli/format.h"

namespace attnd::cli {

void CheckMemory(const Host& host, const DaemonFacts& daemon, Report& report) {
  const auto total = MemTotalBytes(host), available = MemAvailableBytes(host);
  const auto limit = CgroupMemoryLimitBytes(host);
  const auto human = [](uint64_t bytes) { return HumanBytes(static_cast<double>(bytes)); };
  if (!total || !available) {
    return report.Unknown("memory", "/proc/meminfo does not say how much there is");
  }
  std::string found = human(*available) + " of " + human(*total) + " available";
  if (limit) found += ", container limit " + human(*limit);
  const uint64_t usable = limit ? std::min(*limit, *total) : *total;
  // A GPU's pool is memory of its own, and a remote daemon's is elsewhere.
  uint64_t pool_bytes = 0;
  if (daemon.stats && daemon.local) {
    for (const client::DeviceStats& device : daemon.stats->devices) {
      if (device.host_memory) pool_bytes += device.pool_bytes;
    }
  }
  if (pool_bytes > usable / 10 * 9) {
    report.Fail("memory", found + ", but the pool is " + human(pool_bytes),
                "lower --pool_bytes, or raise the limit: it leaves no room for staging");
  } else if (*available < *total / 20) {
    report.Warn("memory", found, "the machine is about to swap or to kill processes");
  } else {
    report.Ok("memory", found + (pool_bytes > 0 ? ", pool " + human(pool_bytes) : ""));
  }
}

void CheckHugePages(const Host& host, Report& report) {
  const auto huge = BracketedChoice(host, "/sys/kernel/mm/transparent_hugepage/enabled");
  const uint64_t reserved = host.ReadNumber("/proc/sys/vm/nr_hugepages").value_or(0);
  const std::string tail =
      reserved > 0 ? absl::StrCat("; ", reserved, " reserved ones, which attnd ", "does not use")
                   : "";
  if (!huge) {
    report.Unknown("huge pages", "this kernel does not show the setting" + tail);
  } else if (*huge == "never") {
    report.Warn(
        "huge pages", "transparent huge pages are off" + tail,
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled: large pools need fewer "
        "TLB entries");
  } else {
    report.Ok("huge pages", "transparent huge pages: " + *huge + tail);
  }
}

void CheckLimits(bool gpu, Report& report) {
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    const std::string found = absl::StrFormat("%d open files", files.rlim_cur);
    if (files.rlim_cur < 4096) {
      report.Warn(
          "nofile", found,
          "ulimit -n 65536, or LimitNOFILE= in the service: each client takes a connection");
    } else {
      report.Ok("nofile", found);
    }
  }
  rlimit locked{};
  if (getrlimit(RLIMIT_MEMLOCK, &locked) == 0) {
    const bool unlimited = locked.rlim_cur == RLIM_INFINITY;
    const std::string found =
        (unlimited ? std::string("unlimited") : HumanBytes(static_cast<double>(locked.rlim_cur))) +
        " may be locked";
    // The CPU backend locks nothing; pinned staging for a GPU does.
    if (gpu && !unlimited && locked.rlim_cur < (64u << 20)) {
      report.Warn(
          "memlock", found,
          "ulimit -l unlimited, or LimitMEMLOCK=infinity: pinned buffers speed up copies to "
          "the GPU");
    } else {
      report.Ok("memlock", found);
    }
  }
}

void CheckClock(const Host& host, Report& report) {
  timespec resolution{};
  clock_getres(CLOCK_MONOTONIC, &resolution);
  const double step =
      static_cast<double>(resolution.tv_sec) + static_cast<double>(resolution.tv_nsec) * 1e-9;
  const auto source = host.Read("/sys/devices/system/clocksource/clocksource0/current_clocksource");
  timex state{};
  const int sync = adjtimex(&state);
  std::string found = "source " + source.value_or("unknown") + ", resolution " + HumanSeconds(step);
  if (sync >= 0) {
    found += sync == TIME_ERROR || (state.status & STA_UNSYNC) != 0
                 ? ", wall clock not synchronised"
                 : ", synchronised";
  }
  if (step > 1e-3 || source == "acpi_pm" || source == "jiffies") {
    report.Warn("clock", found, "a slow clock distorts the stage times");
  } else {
    report.Ok("clock", found);
  }
}

}  // namespace attnd::cli
