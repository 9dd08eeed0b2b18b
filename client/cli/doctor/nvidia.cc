// SPDX-License-Identifier: Apache-2.0
//
// NVIDIA GPUs, which attnd's plugin serves too where it was built by nvcc. Read from the driver's
// own files (/proc/driver/nvidia), without nvidia-smi.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/doctor/checks.h"
#include "client/cli/doctor/text.h"

namespace attnd::cli {
namespace {

// CUDA 13, which `make hip-nvidia` compiles with, asks for this driver. Source: NVIDIA's CUDA
// Toolkit release notes, table "CUDA Toolkit and Minimum Required Driver Version".
constexpr uint64_t kOldestDriver = 580;

// The first word of the NVRM line that looks like a version: "535.129.03".
std::string DriverVersion(std::string_view text) {
  const std::string_view line = text.substr(0, text.find('\n'));
  for (const std::string_view word : Words(line)) {
    if (word[0] >= '0' && word[0] <= '9' && word.find('.') != std::string_view::npos) {
      return std::string(word);
    }
  }
  return "";
}

std::vector<std::string> Models(const Host& host) {
  std::vector<std::string> models;
  for (const std::string& address : host.List("/proc/driver/nvidia/gpus")) {
    const std::string text =
        host.Read("/proc/driver/nvidia/gpus/" + address + "/information").value_or("");
    for (const std::string_view line : Split(text, '\n')) {
      if (line.rfind("Model:", 0) != 0) continue;
      const size_t begin = line.find_first_not_of(" \t", 6);
      if (begin != std::string_view::npos) models.emplace_back(line.substr(begin));
    }
  }
  return models;
}

}  // namespace

void CheckNvidia(const Host& host, Report& report) {
  const auto driver = host.Read("/proc/driver/nvidia/version");
  const std::vector<PciGpu> cards = ListPciGpus(host, kNvidiaVendor);
  if (!driver) {
    if (!cards.empty()) {
      report.Warn("nvidia driver",
                  absl::StrCat("not loaded, though there is an NVIDIA GPU at ", cards[0].address,
                               cards[0].driver.empty() ? "" : ", driven by " + cards[0].driver),
                  absl::StrCat("install NVIDIA's driver, ", kOldestDriver, " or later"));
    }
    return;
  }
  const std::string version = DriverVersion(*driver);
  const std::string found = absl::StrCat(version.empty() ? "of unknown version" : version, "; ",
                                         absl::StrJoin(Models(host), ", "));
  const auto major = LeadingNumber(version);
  if (!major) {
    report.Unknown("nvidia driver", "/proc/driver/nvidia/version names no version");
  } else if (*major < kOldestDriver) {
    report.Warn(
        "nvidia driver", found,
        absl::StrCat("a plugin built with CUDA 13 needs driver ", kOldestDriver, " or later"));
  } else {
    report.Ok("nvidia driver", found);
  }
  std::vector<std::string> closed;
  for (const std::string& path : {std::string("/dev/nvidiactl"), std::string("/dev/nvidia-uvm"),
                                  std::string("/dev/nvidia0")}) {
    if (!host.MayOpen(path))
      closed.push_back(path + (host.Exists(path) ? " (closed)" : " (absent)"));
  }
  if (closed.empty()) {
    report.Ok("nvidia devices", "/dev/nvidiactl, nvidia-uvm and nvidia0 open");
  } else {
    report.Warn("nvidia devices", absl::StrJoin(closed, ", "),
                host.in_container() ? "start the container with --gpus all"
                                    : "nvidia-modprobe -c 0 -u makes them; a container needs "
                                      "--gpus all");
  }
  if (const auto visible = host.Env("CUDA_VISIBLE_DEVICES");
      visible && (visible->empty() || *visible == "-1")) {
    report.Warn("visible gpus", "CUDA_VISIBLE_DEVICES=" + *visible + " hides every NVIDIA GPU",
                "unset it for attnd");
  }
}

}  // namespace attnd::cli
