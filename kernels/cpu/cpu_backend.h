// SPDX-License-Identifier: Apache-2.0
//
// The CPU backend: attention in host memory, on the instruction set found at run time.
//
// Every dtype pair, head dims up to 256, any page size, every mask and score option. Launch returns
// with the work done. Results do not depend on the number of threads or on what else is in the
// batch. Thread safety: that of AttentionBackend; backends of one device take turns on its pool.
//
//   std::unique_ptr<CpuDevice> device = MakeCpuDevice({});
//   std::unique_ptr<AttentionBackend> backend = MakeCpuBackend(*device);
#pragma once

#include <memory>

#include "kernels/backend/attention_backend.h"
#include "kernels/cpu/bf16_unit.h"
#include "kernels/cpu/cpu_device.h"
#include "kernels/cpu/cpu_topology.h"

namespace attnd {

struct CpuBackendOptions {
  CacheSizes caches = DetectCacheSizes();  // what tiles are sized to
  Bf16Unit bf16 = DetectBf16Unit();        // or a lesser one, for tests
};

// `device` must outlive the backend.
std::unique_ptr<AttentionBackend> MakeCpuBackend(CpuDevice& device,
                                                 const CpuBackendOptions& options = {});

}  // namespace attnd
