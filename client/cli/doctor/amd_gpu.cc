// SPDX-License-Identifier: Apache-2.0
#include "client/cli/doctor/amd_gpu.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/doctor/text.h"

namespace attnd::cli {
namespace {

constexpr char kNodes[] = "/sys/class/kfd/kfd/topology/nodes";

std::map<std::string, uint64_t> ParseProperties(std::string_view text) {
  std::map<std::string, uint64_t> properties;
  for (const std::string_view line : Split(text, '\n')) {
    const std::vector<std::string_view> words = Words(line);
    if (words.size() != 2) continue;
    if (const auto value = ToNumber(words[1])) properties[std::string(words[0])] = *value;
  }
  return properties;
}

}  // namespace

std::string AmdGpu::Name() const { return absl::StrCat("GPU ", index, " (", target, ")"); }

std::string TargetName(uint64_t gfx_target_version) {
  return absl::StrFormat("gfx%d%d%x", gfx_target_version / 10000, gfx_target_version / 100 % 100,
                         gfx_target_version % 100);
}

AmdGpus ListAmdGpus(const Host& host) {
  AmdGpus result;
  std::vector<uint64_t> nodes;
  for (const std::string& name : host.List(kNodes)) {
    if (const auto node = ToNumber(name)) nodes.push_back(*node);
  }
  std::sort(nodes.begin(), nodes.end());  // by number: ROCm's order
  for (const uint64_t node : nodes) {
    const std::string folder = absl::StrCat(kNodes, "/", node);
    const auto text = host.Read(absl::StrCat(folder, "/properties"));
    if (!text || text->empty()) {
      ++result.hidden_nodes;
      continue;
    }
    std::map<std::string, uint64_t> properties = ParseProperties(*text);
    if (properties["simd_count"] == 0) continue;  // a CPU
    AmdGpu& gpu = result.gpus.emplace_back();
    gpu.index = static_cast<int>(result.gpus.size()) - 1;
    gpu.target = TargetName(properties["gfx_target_version"]);
    gpu.compute_units = static_cast<int64_t>(properties["simd_count"] /
                                             std::max<uint64_t>(1, properties["simd_per_cu"]));
    gpu.unique_id = properties["unique_id"];
    gpu.kfd_id = host.ReadNumber(absl::StrCat(folder, "/gpu_id")).value_or(0);
    if (const uint64_t minor = properties["drm_render_minor"]; minor != 0) {
      gpu.render_node = absl::StrCat("/dev/dri/renderD", minor);
      const std::string device = absl::StrCat("/sys/class/drm/renderD", minor, "/device");
      if (host.Exists(device)) gpu.device = device;
    }
  }
  return result;
}

std::vector<PciGpu> ListPciGpus(const Host& host, uint64_t vendor) {
  std::vector<PciGpu> gpus;
  constexpr char kDevices[] = "/sys/bus/pci/devices";
  for (const std::string& address : host.List(kDevices)) {
    const std::string folder = absl::StrCat(kDevices, "/", address);
    // PCI's base classes: 0x03 is a display controller, 0x12 a processing accelerator.
    const uint64_t base_class = host.ReadNumber(folder + "/class").value_or(0) >> 16;
    if (host.ReadNumber(folder + "/vendor") != vendor ||
        (base_class != 0x03 && base_class != 0x12)) {
      continue;
    }
    const std::string driver = host.Resolve(folder + "/driver").value_or("");
    gpus.push_back({.address = address, .driver = driver.substr(driver.rfind('/') + 1)});
  }
  return gpus;
}

const std::vector<std::string>& KernelTargets() {
  // From kernels/hip/targets.cmake.
  static const auto* const kTargets = [] {
    const std::vector<std::string_view> names = Split(ATTND_AMD_TARGETS, ',');
    return new std::vector<std::string>(names.begin(), names.end());
  }();
  return *kTargets;
}

}  // namespace attnd::cli
