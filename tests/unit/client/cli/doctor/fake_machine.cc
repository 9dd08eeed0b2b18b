// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/client/cli/doctor/fake_machine.h"

#include <sys/stat.h>
#include <unistd.h>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace attnd::cli {

namespace fs = std::filesystem;

namespace {

// Of nobody on the machine that runs the test, so that owners never match by chance.
constexpr uid_t kUser = 54321;

constexpr char kTopology[] = "/sys/class/kfd/kfd/topology/nodes";
// The slot's root port, the card's switch (two ports) and the GPU behind it.
constexpr char kRootPort[] = "/sys/devices/pci0000:00/0000:00:01.1";
constexpr char kUpstreamPort[] = "/sys/devices/pci0000:00/0000:00:01.1/0000:01:00.0";
constexpr char kDownstreamPort[] = "/sys/devices/pci0000:00/0000:00:01.1/0000:01:00.0/0000:02:00.0";
constexpr char kGpu[] =
    "/sys/devices/pci0000:00/0000:00:01.1/0000:01:00.0/0000:02:00.0/0000:03:00.0";

}  // namespace

FakeMachine::FakeMachine() {
  char folder[] = "/tmp/attnd-doctor-test-XXXXXX";
  root_ = mkdtemp(folder) == nullptr ? "" : folder;
  Write("/proc/sys/kernel/osrelease", "6.8.12\n");
  Write("/etc/passwd", absl::StrCat("root:x:0:0:::\nann:x:", kUser, ":", kUser, ":::\n"));
  Write("/etc/group", absl::StrCat("render:x:", getegid(), ":\n"));
}

FakeMachine::~FakeMachine() {
  std::error_code ignored;
  if (!root_.empty()) fs::remove_all(root_, ignored);
}

void FakeMachine::Write(const std::string& path, const std::string& text) {
  const fs::path file = root_ + path;
  fs::create_directories(file.parent_path());
  std::ofstream(file) << text;
}

void FakeMachine::Link(const std::string& path, const std::string& relative_target) {
  const fs::path link = root_ + path;
  fs::create_directories(link.parent_path());
  fs::create_symlink(relative_target, link);
}

void FakeMachine::Remove(const std::string& path) { fs::remove_all(root_ + path); }

void FakeMachine::SetMode(const std::string& path, unsigned mode) {
  (void)chmod((root_ + path).c_str(), mode);
}

void FakeMachine::AddRadeonOnBus() {
  Write(absl::StrCat(kRootPort, "/vendor"), "0x1022\n");
  for (const std::string folder : {kUpstreamPort, kDownstreamPort, kGpu}) {
    Write(folder + "/vendor", "0x1002\n");
  }
  for (const std::string folder : {kRootPort, kUpstreamPort, kDownstreamPort, kGpu}) {
    Write(folder + "/current_link_width", "16\n");
    Write(folder + "/max_link_width", "16\n");
    Write(folder + "/current_link_speed", "16.0 GT/s PCIe\n");
    Write(folder + "/max_link_speed", "16.0 GT/s PCIe\n");
  }
  Write(absl::StrCat(kGpu, "/class"), "0x030000\n");
  Link("/sys/bus/pci/devices/0000:03:00.0", absl::StrCat("../../../..", kGpu));
}

void FakeMachine::AddRadeon() {
  AddRadeonOnBus();
  Write("/sys/bus/pci/drivers/amdgpu/module", "");
  Link(absl::StrCat(kGpu, "/driver"), "../../../../../../bus/pci/drivers/amdgpu");
  Write("/sys/module/amdgpu/refcnt", "7\n");
  Write("/dev/kfd", "");
  Write("/dev/dri/renderD128", "");
  SetMode("/dev/kfd", 0660);
  SetMode("/dev/dri/renderD128", 0660);

  Write(absl::StrCat(kTopology, "/0/properties"), "cpu_cores_count 16\nsimd_count 0\n");
  Write(absl::StrCat(kTopology, "/0/gpu_id"), "0\n");
  Write(absl::StrCat(kTopology, "/1/gpu_id"), "51234\n");
  Write(absl::StrCat(kTopology, "/1/properties"),
        "cpu_cores_count 0\nsimd_count 192\nsimd_per_cu 2\ngfx_target_version 110000\n"
        "vendor_id 4098\ndevice_id 29772\ndrm_render_minor 128\nunique_id 16045690984503098046\n");

  Link(kRadeonDevice, absl::StrCat("../../../..", kGpu));
  const std::string device = kGpu;
  Write(device + "/mem_info_vram_total", "25753026560\n");
  Write(device + "/mem_info_vis_vram_total", "25753026560\n");
  Write(device + "/mem_info_vram_used", "27000000\n");
  Write(device + "/power_dpm_force_performance_level", "auto\n");
  Write(device + "/pp_power_profile_mode",
        "PROFILE_INDEX(NAME) CLOCK_TYPE(NAME) FPS\n 0 BOOTUP_DEFAULT*:\n 5        COMPUTE :\n");
  Write(device + "/pp_dpm_sclk", "0: 500Mhz *\n1: 2482Mhz\n");
  Write(device + "/gpu_busy_percent", "0\n");
  const std::string hwmon = device + "/hwmon/hwmon3";
  Write(hwmon + "/temp1_label", "edge\n");
  Write(hwmon + "/temp1_input", "43000\n");
  Write(hwmon + "/temp1_crit", "100000\n");
  Write(hwmon + "/temp2_label", "junction\n");
  Write(hwmon + "/temp2_input", "47000\n");
  Write(hwmon + "/temp2_crit", "110000\n");
  Write(hwmon + "/power1_average", "28000000\n");
  Write(hwmon + "/power1_cap", "303000000\n");
  Write(hwmon + "/power1_cap_default", "303000000\n");

  Write("/opt/rocm/.info/version", "6.4.1-83\n");
  Write("/opt/rocm/lib/libamdhip64.so.6.4.60401", "");
  Write("/opt/rocm/lib/libhipblaslt.so.0.12", "");
  Write("/opt/rocm/lib/hipblaslt/library/Kernels.so-000-gfx1100.hsaco", "");
}

Host FakeMachine::host() const {
  Host::User user{.uid = kUser};
  if (in_device_group_) user.groups.push_back(getegid());
  return {root_, user, environment};
}

Report FakeMachine::Examine() const {
  Report report;
  CheckGpus(host(), daemon, report);
  return report;
}

std::string FindingsOf(const Report& report, const std::string& check) {
  std::string text;
  for (const Finding& finding : report.findings()) {
    if (finding.check == check) text += ToText(finding, /*colors=*/false);
  }
  return text;
}

}  // namespace attnd::cli
