// SPDX-License-Identifier: Apache-2.0
//
// Are attnd's kernels compiled for the GPUs that there are? A code object runs on its own target
// only, unless HSA_OVERRIDE_GFX_VERSION makes ROCm take a GPU for another of its family.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/doctor/checks.h"
#include "client/cli/doctor/text.h"

namespace attnd::cli {
namespace {

bool HasKernels(std::string_view target) {
  const std::vector<std::string>& targets = KernelTargets();
  return std::find(targets.begin(), targets.end(), target) != targets.end();
}

// "11.0.0" -> "gfx1100"; "" for anything else.
std::string OverrideTarget(std::string_view value) {
  const std::vector<std::string_view> parts = Split(value, '.');
  uint64_t version = 0;
  if (parts.size() != 3) return "";
  for (const std::string_view part : parts) {
    const auto number = ToNumber(part);
    if (!number || *number > 99) return "";
    version = version * 100 + *number;
  }
  return TargetName(version);
}

// The override under which a GPU without kernels of its own may run those of its family: RDNA3.5
// and other RDNA3 dies have the WMMA of gfx1100, RDNA4 that of gfx1201.
std::string SuggestedOverride(std::string_view target) {
  if (target.rfind("gfx11", 0) == 0) return "11.0.0";
  if (target.rfind("gfx120", 0) == 0) return "12.0.1";
  return "";
}

}  // namespace

void CheckAmdTargets(const AmdGpus& amd, const DaemonFacts& daemon, const Environment& environment,
                     Report& report) {
  if (amd.gpus.empty()) return;
  std::string override_target;
  if (const auto found = environment.find("HSA_OVERRIDE_GFX_VERSION"); found != environment.end()) {
    override_target = OverrideTarget(found->second);
    const std::string setting = "HSA_OVERRIDE_GFX_VERSION=" + found->second;
    if (override_target.empty()) {
      report.Warn("gfx override", setting + " is no version", "write it as 11.0.0, or unset it");
    } else if (!HasKernels(override_target)) {
      report.Fail(
          "gfx override",
          absl::StrCat(setting, " makes every GPU ", override_target,
                       ", for which attnd has no kernels"),
          absl::StrCat("unset it; there are kernels for ", absl::StrJoin(KernelTargets(), ", ")));
    } else if (std::all_of(amd.gpus.begin(), amd.gpus.end(),
                           [](const AmdGpu& gpu) { return HasKernels(gpu.target); })) {
      report.Warn("gfx override", setting + ", though every GPU here has kernels of its own",
                  "unset it: kernels for another GPU may be slower, or wrong");
    } else {
      report.Warn("gfx override",
                  absl::StrCat(setting, ": GPUs run the kernels of ", override_target),
                  "AMD does not support this; let `attnctl verify` check the results");
    }
  }
  bool usable = false;
  for (const AmdGpu& gpu : amd.gpus) {
    const std::string target = override_target.empty() ? gpu.target : override_target;
    if (HasKernels(target)) {
      usable = true;
      report.Ok("kernels", absl::StrCat(gpu.Name(), ": there are code objects for ", target));
      continue;
    }
    const std::string suggested = SuggestedOverride(gpu.target);
    report.Warn(
        "kernels",
        absl::StrCat(gpu.Name(), ": attnd has none for it, only for ",
                     absl::StrJoin(KernelTargets(), ", ")),
        suggested.empty()
            ? "attnd serves on the CPU here; with this GPU among others, hide it with "
              "ROCR_VISIBLE_DEVICES"
            : absl::StrCat("HSA_OVERRIDE_GFX_VERSION=", suggested,
                           " lets ROCm try its family's kernels, unsupported by AMD: run `attnctl "
                           "verify` before you trust it; or let attnd serve on the CPU"));
  }
  if (usable && daemon.stats && daemon.local && daemon.stats->backend == "cpu") {
    report.Warn(
        "backend", "attnd serves on the CPU, though a GPU here has kernels",
        "its log says why; attnd --backend=hip insists, --hip_plugin names libattnd_hip.so");
  }
}

}  // namespace attnd::cli
