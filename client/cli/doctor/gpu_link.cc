// SPDX-License-Identifier: Apache-2.0
//
// The way from the host to a GPU: PCIe width and speed, how much of its memory the host can reach,
// what the IOMMU does to copies.
//
// A Radeon or Instinct card of these generations has a PCIe switch of its own (AMD's vendor id,
// 0x1002) between the slot and the GPU; the GPU's own link is inside the card and always wide. What
// the slot gives shows at the topmost of the card's ports. Sources: the kernel's
// Documentation/ABI/testing/sysfs-bus-pci ({current,max}_link_{speed,width}) and
// Documentation/ABI/testing/sysfs-kernel-iommu_groups (type); amdgpu's mem_info_vis_vram_total.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/doctor/checks.h"
#include "client/cli/doctor/text.h"
#include "client/cli/format.h"

namespace attnd::cli {
namespace {

struct Link {
  std::string folder;
  uint64_t width = 0, max_width = 0;  // lanes
  double speed = 0, max_speed = 0;    // GT/s
};

// "16.0 GT/s PCIe" -> 16; 0 for "Unknown".
double GigaTransfers(const std::optional<std::string>& text) {
  return text ? LeadingFraction(*text).value_or(0) : 0;
}

// The links from the GPU up to the root, as far as they say how wide they are.
std::vector<Link> LinksUpwards(const Host& host, const AmdGpu& gpu, size_t& edge) {
  std::vector<Link> links;
  edge = 0;
  std::string folder = host.Resolve(gpu.device).value_or("");
  while (folder.size() > 1) {
    const auto width = host.ReadNumber(folder + "/current_link_width");
    const auto max_width = host.ReadNumber(folder + "/max_link_width");
    if (width && max_width && *width > 0) {
      links.push_back({.folder = folder,
                       .width = *width,
                       .max_width = *max_width,
                       .speed = GigaTransfers(host.Read(folder + "/current_link_speed")),
                       .max_speed = GigaTransfers(host.Read(folder + "/max_link_speed"))});
      if (host.ReadNumber(folder + "/vendor") == kAmdVendor) edge = links.size() - 1;
    }
    folder.resize(folder.rfind('/'));
  }
  return links;
}

void CheckWidth(const Host& host, const AmdGpu& gpu, Report& report) {
  size_t edge = 0;
  const std::vector<Link> links = LinksUpwards(host, gpu, edge);
  if (links.empty()) {
    return report.Unknown("pcie", gpu.Name() + " does not show its link (a virtual machine?)");
  }
  const Link& card = links[edge];
  uint64_t narrowest = card.width;
  for (size_t i = edge; i < links.size(); ++i) narrowest = std::min(narrowest, links[i].width);
  const std::string found = absl::StrFormat("%s: x%d of x%d, %.1f of %.1f GT/s", gpu.Name(),
                                            narrowest, card.max_width, card.speed, card.max_speed);
  if (narrowest < card.max_width) {
    return report.Warn(
        "pcie", found,
        "the slot gives it fewer lanes than it has: seat it again, use the slot next "
        "to the CPU, look for a riser or an M.2 drive that shares its lanes");
  }
  const bool busy = host.ReadNumber(gpu.device + "/gpu_busy_percent").value_or(0) >= 50;
  if (card.speed < card.max_speed && busy) {
    return report.Warn("pcie", found + " under load",
                       "choose the highest PCIe generation for the slot in the firmware's setup");
  }
  report.Ok("pcie", found + (card.speed < card.max_speed ? " (links slow down when idle)" : ""));
}

void CheckBar(const Host& host, const AmdGpu& gpu, Report& report) {
  const auto total = host.ReadNumber(gpu.device + "/mem_info_vram_total");
  const auto visible = host.ReadNumber(gpu.device + "/mem_info_vis_vram_total");
  if (!total || !visible) {
    return report.Unknown("large bar", gpu.Name() + " does not show mem_info_vis_vram_total");
  }
  const std::string found =
      absl::StrCat(gpu.Name(), ": the host reaches ", HumanBytes(static_cast<double>(*visible)),
                   " of ", HumanBytes(static_cast<double>(*total)));
  if (*visible < *total) {
    return report.Warn("large bar", found,
                       "switch on \"Above 4G Decoding\" and \"Resizable BAR\" in the firmware's "
                       "setup: copies between GPUs need it, small uploads gain by it");
  }
  report.Ok("large bar", found);
}

void CheckIommu(const Host& host, const AmdGpus& amd, Report& report) {
  if (host.List("/sys/class/iommu").empty()) {
    return report.Ok("iommu", "off");
  }
  for (const AmdGpu& gpu : amd.gpus) {
    const auto type = host.Read(gpu.device + "/iommu_group/type");
    if (!type) {
      return report.Unknown("iommu", gpu.Name() + " does not show iommu_group/type");
    }
    if (*type != "identity" && amd.gpus.size() > 1) {
      return report.Warn(
          "iommu", absl::StrCat("on, translating (", *type, ") for ", gpu.Name()),
          "boot with iommu=pt: copies between GPUs fail or crawl through translation");
    }
    if (*type != "identity") {
      return report.Ok("iommu", absl::StrCat("on, translating (", *type, ")"),
                       "iommu=pt on the kernel's command line makes copies a little cheaper");
    }
  }
  report.Ok("iommu", "on, passing through");
}

}  // namespace

void CheckGpuLink(const Host& host, const AmdGpus& amd, Report& report) {
  bool any = false;
  for (const AmdGpu& gpu : amd.gpus) {
    if (gpu.device.empty()) {
      report.Unknown("pcie", gpu.Name() + " has no folder under /sys/class/drm");
      continue;
    }
    any = true;
    CheckWidth(host, gpu, report);
    CheckBar(host, gpu, report);
  }
  if (any) CheckIommu(host, amd, report);
}

}  // namespace attnd::cli
