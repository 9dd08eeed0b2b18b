// SPDX-License-Identifier: Apache-2.0
//
// Environment variables that change what ROCm does. The daemon's count, not this shell's: they are
// read from its process where this user may, and the report says whose they are.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/doctor/checks.h"
#include "client/cli/doctor/text.h"
#include "client/cli/doctor/visible_devices.h"

namespace attnd::cli {
namespace {

// Of /proc/<pid>/environ: "name=value" entries that end in NUL.
Environment ParseEnvironment(std::string_view text) {
  Environment variables;
  for (const std::string_view entry : Split(text, '\0')) {
    const size_t equals = entry.find('=');
    if (equals != std::string_view::npos)
      variables.emplace(entry.substr(0, equals), entry.substr(equals + 1));
  }
  return variables;
}

}  // namespace

DaemonEnvironment FindDaemonEnvironment(const Host& host) {
  std::vector<std::string> daemons;
  for (const std::string& name : host.List("/proc")) {
    if (ToNumber(name) && host.Read("/proc/" + name + "/comm") == "attnd") {
      daemons.push_back(name);
    }
  }
  if (daemons.size() == 1) {
    if (const auto text = host.Read("/proc/" + daemons[0] + "/environ")) {
      DaemonEnvironment result{.variables = {}, .of = "attnd (process " + daemons[0] + ")"};
      result.variables = ParseEnvironment(*text);
      return result;
    }
    return {.variables = host.environment(), .of = "this shell (attnd's may not be read)"};
  }
  return {.variables = host.environment(),
          .of = daemons.empty() ? "this shell" : "this shell (there are several attnd)"};
}

void CheckVisibleDevices(const AmdGpus& amd, const DaemonEnvironment& environment, Report& report) {
  if (amd.gpus.empty()) return;
  const VisibleDevices visible = ResolveVisibleDevices(environment.variables, amd.gpus);
  std::vector<std::string> names;
  names.reserve(visible.gpus.size());
  for (const int gpu : visible.gpus) {
    names.push_back(amd.gpus[static_cast<size_t>(gpu)].Name());
  }
  const std::string found = absl::StrCat(
      names.empty() ? "none" : absl::StrJoin(names, ", "), " of ", amd.gpus.size(), "; ",
      visible.settings.empty() ? "nothing set" : absl::StrJoin(visible.settings, " "), " in ",
      environment.of);
  if (names.empty()) {
    return report.Fail("visible gpus", found,
                       visible.problems.empty() ? "unset the variable, or name a GPU in it"
                                                : absl::StrJoin(visible.problems, "; "));
  }
  if (!visible.problems.empty()) {
    return report.Warn("visible gpus", found, absl::StrJoin(visible.problems, "; "));
  }
  report.Ok("visible gpus", found);
}

void CheckRuntimeVariables(const AmdGpus& amd, const DaemonEnvironment& environment,
                           Report& report) {
  if (amd.gpus.empty()) return;
  const auto value_of = [&](const char* name) -> std::string {
    const auto found = environment.variables.find(name);
    return found == environment.variables.end() ? "" : found->second;
  };
  if (const std::string sdma = value_of("HSA_ENABLE_SDMA"); sdma == "0") {
    report.Ok("copy engines",
              "HSA_ENABLE_SDMA=0 in " + environment.of +
                  ": copies are made by kernels, not by the GPU's copy engines",
              "it works round hangs and slow copies of some boards, and takes compute units while "
              "it copies: keep it only where it measured faster");
  } else {
    report.Ok("copy engines", "in use (HSA_ENABLE_SDMA is not 0)",
              "where copies hang or are slow, try HSA_ENABLE_SDMA=0 and measure");
  }
  const std::string xnack = value_of("HSA_XNACK");
  const bool can_retry = std::any_of(amd.gpus.begin(), amd.gpus.end(), [](const AmdGpu& gpu) {
    return gpu.target.rfind("gfx9", 0) == 0;
  });
  if (xnack == "1" && can_retry) {
    report.Warn("xnack", "HSA_XNACK=1 in " + environment.of + ": page faults are retried",
                "attnd needs none, and code runs slower with it: unset it for attnd");
  } else if (xnack == "1") {
    report.Ok("xnack", "HSA_XNACK=1, which these GPUs do not have");
  }
  for (const char* name : {"AMD_SERIALIZE_KERNEL", "AMD_SERIALIZE_COPY", "HIP_LAUNCH_BLOCKING"}) {
    const std::string value = value_of(name);
    if (value.empty() || value == "0") continue;
    report.Warn("serialised", absl::StrCat(name, "=", value, " in ", environment.of),
                "it makes every launch or copy wait, for debugging: unset it");
  }
}

}  // namespace attnd::cli
