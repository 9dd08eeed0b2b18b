// SPDX-License-Identifier: Apache-2.0
//
// The launcher on the CPU backend: how the benchmark itself is tested where there is no GPU.
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/cpu_device.h"
#include "tests/bench/hip/platform.h"

namespace attnd::bench {

absl::StatusOr<BenchPlatform> OpenBenchPlatform(int /*device*/, int /*launches*/) {
  std::unique_ptr<CpuDevice> device = MakeCpuDevice({.num_threads = 2});
  BenchPlatform platform;
  platform.stream = *device->NewStream();
  platform.backend = MakeCpuBackend(*device);
  platform.device = std::move(device);
  return platform;
}

}  // namespace attnd::bench
