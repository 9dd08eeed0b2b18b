// SPDX-License-Identifier: Apache-2.0
//
// Does a GPU run as fast as it may? Its performance level, its clocks where it is busy, its heat
// and its power limit.
//
// Sources: the kernel's Documentation/gpu/amdgpu/thermal.rst (power_dpm_force_performance_level;
// pp_dpm_sclk, lines "1: 2482Mhz *" with a star at the current one, "S:" in deep sleep;
// gpu_busy_percent; pp_power_profile_mode) and Documentation/hwmon/sysfs-interface.rst (temp*_input
// and _crit in thousandths of a degree, power1_* in millionths of a watt).
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/doctor/checks.h"
#include "client/cli/doctor/text.h"

namespace attnd::cli {
namespace {

constexpr uint64_t kBusyPercent = 80;    // from here on the clock should be up
constexpr double kThrottledClock = 0.6;  // of the highest level, while busy
constexpr double kCloseToLimitDegrees = 5;

struct Clock {
  uint64_t current_mhz = 0;
  uint64_t highest_mhz = 0;
};

// Of a file like pp_dpm_sclk; nothing where no level is marked.
std::optional<Clock> ParseLevels(std::string_view text) {
  Clock clock;
  for (const std::string_view line : Split(text, '\n')) {
    const std::vector<std::string_view> words = Words(line);
    if (words.size() < 2) continue;
    const auto mhz = LeadingNumber(words[1]);
    if (!mhz) continue;
    clock.highest_mhz = std::max(clock.highest_mhz, *mhz);
    if (line.find('*') != std::string_view::npos) clock.current_mhz = *mhz;
  }
  if (clock.highest_mhz == 0 || text.find('*') == std::string_view::npos) return std::nullopt;
  return clock;
}

// The name before the star in pp_power_profile_mode: "BOOTUP_DEFAULT".
std::string PowerProfile(std::string_view text) {
  for (const std::string_view line : Split(text, '\n')) {
    if (line.find('*') == std::string_view::npos) continue;
    for (const std::string_view word : Words(line, " *:")) {
      if (word[0] >= 'A' && word[0] <= 'Z') return std::string(word);
    }
  }
  return "";
}

void CheckLevel(const Host& host, const AmdGpu& gpu, Report& report) {
  const std::string path = gpu.device + "/power_dpm_force_performance_level";
  const auto level = host.Read(path);
  if (!level) return report.Unknown("power level", gpu.Name() + " does not show " + path);
  const std::string profile =
      PowerProfile(host.Read(gpu.device + "/pp_power_profile_mode").value_or(""));
  std::string found = absl::StrCat(gpu.Name(), ": ", *level);
  if (!profile.empty()) found += ", profile " + profile;
  if (*level == "low" || *level == "profile_min_sclk" || *level == "profile_min_mclk") {
    report.Warn("power level", found + ": its clocks are held low", "echo auto > " + path);
  } else if (profile == "POWER_SAVING") {
    report.Warn("power level", found, "echo 0 > " + gpu.device + "/pp_power_profile_mode");
  } else {
    report.Ok("power level", found);
  }
}

}  // namespace

void CheckGpuClocks(const Host& host, const AmdGpus& amd, Report& report) {
  for (const AmdGpu& gpu : amd.gpus) {
    if (gpu.device.empty()) {
      report.Unknown("clocks", gpu.Name() + " has no folder under /sys/class/drm");
      continue;
    }
    CheckLevel(host, gpu, report);
    const auto clock = ParseLevels(host.Read(gpu.device + "/pp_dpm_sclk").value_or(""));
    const auto busy = host.ReadNumber(gpu.device + "/gpu_busy_percent");
    if (!clock) {
      report.Unknown("clocks", gpu.Name() + " does not show pp_dpm_sclk");
      continue;
    }
    const std::string found =
        absl::StrFormat("%s: %d of %d MHz", gpu.Name(), clock->current_mhz, clock->highest_mhz);
    if (!busy) {
      report.Ok("clocks", found + "; how busy it is, it does not say");
    } else if (*busy < kBusyPercent) {
      report.Ok("clocks",
                absl::StrFormat("%s at %d %% load: not busy enough to tell", found, *busy));
    } else if (static_cast<double>(clock->current_mhz) <
               kThrottledClock * static_cast<double>(clock->highest_mhz)) {
      report.Warn("clocks", absl::StrFormat("%s at %d %% load", found, *busy),
                  "it is throttled: see the lines on its power level, heat and power");
    } else {
      report.Ok("clocks", absl::StrFormat("%s at %d %% load", found, *busy));
    }
  }
}

void CheckGpuHeat(const Host& host, const AmdGpus& amd, Report& report) {
  for (const AmdGpu& gpu : amd.gpus) {
    if (gpu.device.empty()) continue;
    const std::vector<std::string> monitors = host.List(gpu.device + "/hwmon");
    if (monitors.empty()) {
      report.Unknown("heat", gpu.Name() + " shows no hwmon");
      continue;
    }
    const std::string folder = absl::StrCat(gpu.device, "/hwmon/", monitors[0]);
    const auto read = [&](const std::string& name, double unit) -> std::optional<double> {
      const auto value = host.ReadNumber(absl::StrCat(folder, "/", name));
      if (!value) return std::nullopt;
      return static_cast<double>(*value) / unit;
    };
    std::vector<std::string> found;
    bool hot = false;
    for (const int i : {1, 2, 3}) {
      const std::string temp = absl::StrCat("temp", i);
      const auto degrees = read(temp + "_input", 1e3), critical = read(temp + "_crit", 1e3);
      if (!degrees) continue;
      found.push_back(absl::StrFormat(
          "%s %.0f C", host.Read(absl::StrCat(folder, "/", temp, "_label")).value_or(temp),
          *degrees));
      hot = hot || (critical && *degrees > *critical - kCloseToLimitDegrees);
    }
    auto watts = read("power1_average", 1e6);
    if (!watts) watts = read("power1_input", 1e6);
    const auto cap = read("power1_cap", 1e6), usual = read("power1_cap_default", 1e6);
    if (watts && cap) found.push_back(absl::StrFormat("%.0f of %.0f W", *watts, *cap));
    const std::string text = absl::StrCat(gpu.Name(), ": ", absl::StrJoin(found, ", "));
    if (found.empty()) {
      report.Unknown("heat", gpu.Name() + " shows neither temperature nor power");
    } else if (hot) {
      report.Warn("heat", text, "close to where it throttles: more air, or a lower power1_cap");
    } else if (cap && usual && *cap < 0.8 * *usual) {
      report.Warn("heat", text,
                  absl::StrFormat("its power is capped below the default of %.0f W: echo %.0f > "
                                  "%s/power1_cap",
                                  *usual, *usual * 1e6, folder));
    } else {
      report.Ok("heat", text);
    }
  }
}

}  // namespace attnd::cli
