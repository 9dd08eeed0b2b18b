// SPDX-License-Identifier: Apache-2.0
//
// Which GPUs a HIP process sees, from the variables that hide some of them.
//
// ROCm filters twice. ROCR_VISIBLE_DEVICES picks from all GPUs, by index or by "GPU-<unique id>";
// where it is set and empty there are none. Then HIP_VISIBLE_DEVICES, or CUDA_VISIBLE_DEVICES where
// the former is unset or empty, picks by index from those that are left. Either list ends at its
// first entry that names no GPU. Sources: AMD's "GPU isolation techniques", and ROCR-Runtime
// (amd_filter_device) and CLR (rocdevice), which read them. Pure; thread-safe.
//
//   VisibleDevices visible = ResolveVisibleDevices({{"HIP_VISIBLE_DEVICES", "1"}}, gpus);
#pragma once

#include <string>
#include <vector>

#include "client/cli/doctor/amd_gpu.h"
#include "client/cli/doctor/host.h"

namespace attnd::cli {

struct VisibleDevices {
  std::vector<int> gpus;              // AmdGpu::index, in the order in which HIP counts them
  std::vector<std::string> settings;  // "HIP_VISIBLE_DEVICES=1", those that are set
  std::vector<std::string> problems;  // what a user hardly meant, in sentences
};

VisibleDevices ResolveVisibleDevices(const Environment& environment,
                                     const std::vector<AmdGpu>& gpus);

}  // namespace attnd::cli
