// SPDX-License-Identifier: Apache-2.0
//
// The AMD GPUs of a machine, as its kernel lists them: what HIP would find, without HIP.
//
// Sources: the kernel's KFD topology (drivers/gpu/drm/amd/amdkfd/kfd_topology.c), one folder a node
// whose file `properties` has lines "name value", CPUs included (simd_count 0); and amdgpu's sysfs
// (Documentation/gpu/amdgpu/driver-misc.rst). Pure functions of the Host; thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "client/cli/doctor/host.h"

namespace attnd::cli {

struct AmdGpu {
  int index = 0;       // among the GPUs: what ROCR_VISIBLE_DEVICES counts
  std::string target;  // "gfx1100"
  int64_t compute_units = 0;
  uint64_t unique_id = 0;     // of the board; 0 where it has none
  uint64_t kfd_id = 0;        // in /sys/class/kfd/kfd/proc/<pid>/vram_<kfd_id>
  std::string render_node{};  // "/dev/dri/renderD128"; empty where the kernel names none
  std::string device{};       // its PCI device's folder in /sys; empty where there is none

  std::string Name() const;  // "GPU 0 (gfx1100)"
};

struct AmdGpus {
  std::vector<AmdGpu> gpus;
  // Nodes that this process may not read: a container's device rules hide them.
  int hidden_nodes = 0;
};

AmdGpus ListAmdGpus(const Host& host);

// 110000 -> "gfx1100", 90010 -> "gfx90a": major * 10000 + minor * 100 + stepping, the stepping in
// hexadecimal.
std::string TargetName(uint64_t gfx_target_version);

// A display controller or processing accelerator on the PCI bus, driver or not.
struct PciGpu {
  std::string address;  // "0000:03:00.0"
  std::string driver;   // "amdgpu", "vfio-pci"; empty where none is bound
};
inline constexpr uint64_t kAmdVendor = 0x1002, kNvidiaVendor = 0x10de;
std::vector<PciGpu> ListPciGpus(const Host& host, uint64_t vendor);

// The GPUs for which attnd's kernels are compiled: "gfx1100", ...
const std::vector<std::string>& KernelTargets();

}  // namespace attnd::cli
