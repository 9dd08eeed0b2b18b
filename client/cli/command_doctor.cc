// SPDX-License-Identifier: Apache-2.0
//
// attnctl doctor: why it does not work, or not as fast as it could. One line a check: ok, warn or
// FAIL, what was found, and what to do. The checks of the machine mean the daemon's machine where
// both are one. Exit code 1 where anything failed; warnings do not count.
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/timex.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/command.h"
#include "client/cli/format.h"
#include "client/cli/machine.h"
#include "client/cli/metrics_scrape.h"
#include "client/cli/terminal.h"
#include "client/cpp/error_detail.h"

namespace attnd::cli {
namespace {

namespace fs = std::filesystem;
using client::DeviceStats;
using client::Stats;

class Doctor {
 public:
  explicit Doctor(const Globals& globals) : globals_(globals), colors_(StdoutIsTerminal()) {}

  int Run();

 private:
  enum class Verdict { kOk, kWarn, kFail };
  void Say(Verdict verdict, const std::string& what, const std::string& found,
           const std::string& advice = "");
  void CheckSocket();
  std::optional<Stats> CheckDaemon();
  void CheckMetrics();
  void CheckMemory(const std::optional<Stats>& stats);
  void CheckCpu(const std::optional<Stats>& stats);
  void CheckLimits();
  void CheckClock();
  void CheckGpu();

  const Globals& globals_;
  const bool colors_;
  int warnings_ = 0;
  int failures_ = 0;
};

void Doctor::Say(Verdict verdict, const std::string& what, const std::string& found,
                 const std::string& advice) {
  static constexpr const char* kWords[] = {"ok  ", "warn", "FAIL"};
  static constexpr const char* kColors[] = {"\x1b[32m", "\x1b[33m", "\x1b[31m"};
  const auto index = static_cast<size_t>(verdict);
  const std::string word =
      colors_ ? std::string(kColors[index]) + kWords[index] + "\x1b[0m" : kWords[index];
  std::cout << word << "  " << absl::StrFormat("%-14s", what) << "  " << found << "\n";
  if (!advice.empty()) std::cout << std::string(22, ' ') << "-> " << advice << "\n";
  warnings_ += verdict == Verdict::kWarn ? 1 : 0;
  failures_ += verdict == Verdict::kFail ? 1 : 0;
}

void Doctor::CheckSocket() {
  if (globals_.address.rfind("unix:", 0) != 0) return;
  const std::string path = globals_.address.substr(5);
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) {
    return Say(Verdict::kFail, "socket", path + ": " + std::strerror(errno),
               errno == EACCES ? "a folder above it is closed to this user"
                               : "start attnd with --listen " + globals_.address);
  }
  if (!S_ISSOCK(info.st_mode)) {
    return Say(Verdict::kFail, "socket", path + " is not a socket", "is the path right?");
  }
  if (access(path.c_str(), R_OK | W_OK) != 0) {
    return Say(Verdict::kFail, "socket", path + ": " + std::strerror(errno),
               absl::StrFormat("join group %d, or run as user %d", info.st_gid, info.st_uid));
  }
  Say(Verdict::kOk, "socket", absl::StrFormat("%s, mode %03o", path, info.st_mode & 0777));
}

std::optional<Stats> Doctor::CheckDaemon() {
  const auto client = Connect(globals_);
  if (!client.ok()) {
    Say(Verdict::kFail, "connection", std::string(client.status().message()),
        "start attnd, or name its address with --address or ATTND_ADDRESS");
    return std::nullopt;
  }
  const auto begin = std::chrono::steady_clock::now();
  const auto stats = (*client)->GetStats();
  const double round_trip =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (!stats.ok()) {
    Say(Verdict::kFail, "connection", std::string(stats.status().message()),
        absl::IsUnimplemented(stats.status()) ? "is that attnd? Something else speaks gRPC there"
                                              : "");
    return std::nullopt;
  }
  Say(Verdict::kOk, "connection",
      "attnd at " + globals_.address + " answers in " + HumanSeconds(round_trip));
  if (stats->version == ATTND_VERSION) {
    Say(Verdict::kOk, "version", "daemon and attnctl are both " + stats->version);
  } else {
    Say(Verdict::kWarn, "version", "the daemon is " + stats->version + ", attnctl " ATTND_VERSION,
        "install the same release on both sides");
  }
  if (stats->draining) {
    Say(Verdict::kFail, "state", "draining: it takes no new work", "restart attnd");
  }
  const auto report = (*client)->CheckIntegrity();
  if (report.ok()) {
    Say(Verdict::kOk, "integrity",
        absl::StrFormat("%d pages and %d sequences are consistent", report->pages_checked,
                        report->sequences_checked));
  } else {
    Say(Verdict::kFail, "integrity", std::string(report.status().message()),
        "report this with the daemon's log, and restart it");
  }
  return *stats;
}

void Doctor::CheckMetrics() {
  const auto metrics = ScrapeMetrics(globals_.metrics_address);
  if (metrics.ok() && metrics->Has("attnd_launches_total")) {
    return Say(Verdict::kOk, "metrics",
               "served at http://" + globals_.metrics_address + "/metrics");
  }
  Say(Verdict::kWarn, "metrics",
      metrics.ok() ? "what answers at " + globals_.metrics_address + " is not attnd"
                   : std::string(metrics.status().message()),
      "name the port with --metrics, or start attnd with --metrics_listen");
}

void Doctor::CheckMemory(const std::optional<Stats>& stats) {
  const auto total = MemTotalBytes(), available = MemAvailableBytes();
  const auto limit = CgroupMemoryLimitBytes();
  const auto human = [](uint64_t bytes) { return HumanBytes(static_cast<double>(bytes)); };
  if (total && available) {
    std::string found = human(*available) + " of " + human(*total) + " available";
    if (limit) found += ", container limit " + human(*limit);
    const uint64_t usable = limit ? std::min(*limit, *total) : *total;
    // A GPU's pool is memory of its own.
    uint64_t pool_bytes = 0;
    for (const DeviceStats& device : stats ? stats->devices : std::vector<DeviceStats>()) {
      if (device.host_memory) pool_bytes += device.pool_bytes;
    }
    if (pool_bytes > usable / 10 * 9) {
      Say(Verdict::kFail, "memory", found + ", but the pool is " + human(pool_bytes),
          "lower the pool's size, or raise the limit: it leaves no room for staging");
    } else if (*available < *total / 20) {
      Say(Verdict::kWarn, "memory", found, "the machine is about to swap or to kill processes");
    } else {
      Say(Verdict::kOk, "memory", found + (pool_bytes > 0 ? ", pool " + human(pool_bytes) : ""));
    }
  }
  const auto huge = BracketedChoice("/sys/kernel/mm/transparent_hugepage/enabled");
  if (!huge) {
    Say(Verdict::kWarn, "huge pages", "unknown: this kernel does not show the setting");
  } else if (*huge == "never") {
    Say(Verdict::kWarn, "huge pages", "transparent huge pages are off",
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled: large pools need fewer TLB "
        "entries");
  } else {
    Say(Verdict::kOk, "huge pages", "transparent huge pages: " + *huge);
  }
}

void Doctor::CheckCpu(const std::optional<Stats>& stats) {
  const auto flags = CpuFlags({"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_bf16",
                               "avx512_fp16", "amx_tile", "asimd", "asimdhp", "sve"});
  const unsigned cores = std::thread::hardware_concurrency();
  std::string found =
      absl::StrFormat("%d hardware threads; %s", cores,
                      flags.empty() ? "no known vector extension" : absl::StrJoin(flags, " "));
  const auto limit = CgroupCpuLimit();
  if (limit) found += absl::StrFormat("; container limit %.1f CPUs", *limit);
  const auto has = [&flags](const char* flag) {
    return std::find(flags.begin(), flags.end(), flag) != flags.end();
  };
  const bool cpu_backend = !stats || stats->backend == "cpu";
  if (cpu_backend && !has("avx2") && !has("asimd")) {
    Say(Verdict::kWarn, "cpu", found,
        "attention on this CPU is several times slower than with AVX2");
  } else if (limit && *limit + 0.5 < cores) {
    Say(Verdict::kWarn, "cpu", found,
        absl::StrFormat("start attnd with --num_threads %d: more threads than the limit wait for "
                        "each other",
                        std::max(1, static_cast<int>(*limit))));
  } else {
    Say(Verdict::kOk, "cpu", found);
  }
}

void Doctor::CheckLimits() {
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    const std::string found = absl::StrFormat("%d open files", files.rlim_cur);
    if (files.rlim_cur < 4096) {
      Say(Verdict::kWarn, "nofile", found,
          "ulimit -n 65536, or LimitNOFILE= in the service: each "
          "client takes a connection");
    } else {
      Say(Verdict::kOk, "nofile", found);
    }
  }
  rlimit locked{};
  if (getrlimit(RLIMIT_MEMLOCK, &locked) == 0) {
    const bool unlimited = locked.rlim_cur == RLIM_INFINITY;
    const std::string found =
        (unlimited ? std::string("unlimited") : HumanBytes(static_cast<double>(locked.rlim_cur))) +
        " may be locked";
    // The CPU backend locks nothing; pinned staging for a GPU does.
    if (!unlimited && locked.rlim_cur < (64u << 20) && fs::exists("/dev/kfd")) {
      Say(Verdict::kWarn, "memlock", found,
          "ulimit -l unlimited, or LimitMEMLOCK=infinity: pinned "
          "buffers speed up copies to the GPU");
    } else {
      Say(Verdict::kOk, "memlock", found);
    }
  }
}

void Doctor::CheckClock() {
  timespec resolution{};
  clock_getres(CLOCK_MONOTONIC, &resolution);
  const double step =
      static_cast<double>(resolution.tv_sec) + static_cast<double>(resolution.tv_nsec) * 1e-9;
  const auto source = ReadFile("/sys/devices/system/clocksource/clocksource0/current_clocksource");
  timex state{};
  const int sync = adjtimex(&state);
  std::string found = "source " + source.value_or("unknown") + ", resolution " + HumanSeconds(step);
  if (sync >= 0) {
    found += sync == TIME_ERROR || (state.status & STA_UNSYNC) != 0
                 ? ", wall clock not synchronised"
                 : ", synchronised";
  }
  if (step > 1e-3 || source == "acpi_pm" || source == "jiffies") {
    Say(Verdict::kWarn, "clock", found, "a slow clock distorts the stage times");
  } else {
    Say(Verdict::kOk, "clock", found);
  }
}

void Doctor::CheckGpu() {
  const bool kfd = fs::exists("/dev/kfd");
  std::vector<std::string> nodes;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/dev/dri", ignored)) {
    const std::string name = entry.path().filename();
    if (name.rfind("renderD", 0) == 0) nodes.push_back(name);
  }
  std::sort(nodes.begin(), nodes.end());
  if (!kfd && nodes.empty()) {
    return Say(Verdict::kOk, "gpu", "none visible (/dev/kfd and /dev/dri are absent): CPU backend");
  }
  const std::string found = std::string("/dev/kfd ") + (kfd ? "present" : "absent") + "; " +
                            (nodes.empty() ? "no render node" : absl::StrJoin(nodes, " "));
  if (!kfd) {
    return Say(Verdict::kWarn, "gpu", found,
               "for an AMD GPU load amdgpu, and give a container --device /dev/kfd --device "
               "/dev/dri");
  }
  if (access("/dev/kfd", R_OK | W_OK) == 0) return Say(Verdict::kOk, "gpu", found);
  const auto groups = GroupNames();
  const bool render = std::find(groups.begin(), groups.end(), "render") != groups.end();
  Say(Verdict::kFail, "gpu", found + ", but this user may not open it",
      render ? "check the permissions of /dev/kfd"
             : "usermod -aG render,video USER, and log in again");
}

int Doctor::Run() {
  CheckSocket();
  const std::optional<Stats> stats = CheckDaemon();
  CheckMetrics();
  CheckMemory(stats);
  CheckCpu(stats);
  CheckLimits();
  CheckClock();
  CheckGpu();
  std::cout << absl::StrFormat("\ndoctor: %d failed, %d warnings\n", failures_, warnings_);
  return failures_ == 0 ? kSuccess : kFailure;
}

}  // namespace

void AddDoctorCommand(CLI::App& app, Globals& globals) {
  CLI::App* command =
      app.add_subcommand("doctor", "Check this machine and the daemon, with advice");
  command->callback([&globals] { globals.exit_code = Doctor(globals).Run(); });
}

}  // namespace attnd::cli
