// SPDX-License-Identifier: Apache-2.0
//
// Is the kernel driver there, and may this user open what it offers? ROCm opens /dev/kfd and each
// GPU's render node; distributions give both to the group `render`, older ones to `video`.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/doctor/checks.h"
#include "client/cli/doctor/text.h"

namespace attnd::cli {
namespace {

constexpr const char* kContainerAdvice =
    "start the container with --device /dev/kfd --device /dev/dri --group-add render";

// The file of /etc/modprobe.d that keeps the driver from loading, or "".
std::string BlacklistFile(const Host& host) {
  for (const std::string& name : host.List("/etc/modprobe.d")) {
    std::string path = "/etc/modprobe.d/" + name;
    const std::string text = host.Read(path).value_or("");
    for (const std::string_view line : Split(text, '\n')) {
      const std::vector<std::string_view> words = Words(line);
      if (words.size() >= 2 && words[0] == "blacklist" && words[1] == "amdgpu") return path;
    }
  }
  return "";
}

void CheckModule(const Host& host, const std::vector<PciGpu>& cards, Report& report) {
  const std::string kernel = host.Read("/proc/sys/kernel/osrelease").value_or("of unknown release");
  if (host.Exists("/sys/module/amdgpu")) {
    // Only the driver of AMD's own packages (amdgpu-dkms) has a version of its own.
    const auto version = host.Read("/sys/module/amdgpu/version");
    return report.Ok("amdgpu driver", version ? absl::StrCat(*version, ", beside Linux ", kernel)
                                              : absl::StrCat("that of Linux ", kernel));
  }
  for (const PciGpu& card : cards) {
    if (card.driver == "vfio-pci") {
      return report.Warn(
          "amdgpu driver",
          absl::StrCat("not loaded; ", card.address, " is kept for virtual machines"),
          "to use it here, bind it to amdgpu instead of vfio-pci");
    }
  }
  const std::string found =
      cards.empty() ? "not loaded"
                    : absl::StrCat("not loaded, though there is an AMD GPU at ", cards[0].address);
  const std::string blacklist = BlacklistFile(host);
  report.Fail(
      "amdgpu driver", found,
      blacklist.empty()
          ? "modprobe amdgpu; where that fails, install linux-firmware (Debian: "
            "firmware-amd-graphics) and read `dmesg | grep amdgpu`"
          : absl::StrCat("remove `blacklist amdgpu` from ", blacklist, ", then modprobe amdgpu"));
}

// How this user gets to open a device of that group.
std::string GroupAdvice(const Host& host, const Host::Owner& owner) {
  const std::string group = host.GroupName(owner.gid), user = host.UserName();
  if ((owner.mode & 060) != 060) {
    return absl::StrFormat("its mode is %03o: install ROCm's udev rules, which make it 660 render",
                           owner.mode);
  }
  if (host.InGroup(owner.gid)) return "the group is right: look for an access control list";
  if (host.EnrolledInGroup(owner.gid)) {
    return absl::StrCat(user, " is in ", group, ", but this session is older: log in again");
  }
  if (host.in_container()) return kContainerAdvice;
  return absl::StrCat("usermod -aG ", group, " ", user, ", and log in again; the user who runs ",
                      "attnd needs it too");
}

// A device file that must open. Returns whether it does.
bool CheckDevice(const Host& host, const std::string& path, Report& report) {
  const auto owner = host.OwnerOf(path);
  if (!owner) {
    report.Fail(path, "absent",
                host.in_container() ? kContainerAdvice
                                    : "the driver is loaded but offers no compute: read `dmesg | "
                                      "grep -e amdgpu -e kfd`");
    return false;
  }
  if (host.MayOpen(path)) return true;
  report.Fail(path,
              absl::StrFormat("%s may not open it: mode %03o, group %s", host.UserName(),
                              owner->mode, host.GroupName(owner->gid)),
              GroupAdvice(host, *owner));
  return false;
}

}  // namespace

void CheckAmdDriver(const Host& host, const AmdGpus& amd, Report& report) {
  const std::vector<PciGpu> cards = ListPciGpus(host, kAmdVendor);
  if (cards.empty() && amd.gpus.empty()) {
    if (amd.hidden_nodes > 0) {
      return report.Unknown("amd gpu", "the kernel hides its GPUs from this process",
                            kContainerAdvice);
    }
    return;
  }
  CheckModule(host, cards, report);
  if (!host.Exists("/sys/module/amdgpu")) return;  // nothing below can be there

  std::vector<std::string> good;
  if (CheckDevice(host, "/dev/kfd", report)) good.emplace_back("/dev/kfd");
  for (const AmdGpu& gpu : amd.gpus) {
    if (!gpu.render_node.empty() && CheckDevice(host, gpu.render_node, report)) {
      good.push_back(gpu.render_node);
    }
  }
  if (!good.empty()) {
    report.Ok("devices",
              absl::StrCat(absl::StrJoin(good, ", "), " may be opened by ", host.UserName()));
  }
  std::vector<std::string> found;
  for (const AmdGpu& gpu : amd.gpus) {
    found.push_back(absl::StrFormat("%s, %d compute units", gpu.Name(), gpu.compute_units));
  }
  if (amd.hidden_nodes > 0) {
    found.push_back(absl::StrCat(amd.hidden_nodes, " hidden from this process"));
  }
  if (found.empty()) {
    report.Unknown("amd gpus", "the kernel lists none for compute, though one is on the PCI bus",
                   "read `dmesg | grep -e amdgpu -e kfd`: is it older than ROCm supports?");
  } else {
    report.Ok("amd gpus", absl::StrJoin(found, "; "));
  }
}

}  // namespace attnd::cli
