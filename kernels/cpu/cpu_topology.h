// SPDX-License-Identifier: Apache-2.0
//
// What this process may use of the machine: CPUs, caches, memory. A container's limits count, not
// the host's size. Thread-safe; reads the kernel's files on every call, so ask once, at start.
//
//   int threads = UsableCpus();
//   CacheSizes caches = DetectCacheSizes();   // caches.l2_bytes feeds TileShapeFor()
#pragma once

#include <cstdint>

#include "kernels/base/units.h"

namespace attnd {

// Data caches of one core. Where the machine does not say, sizes that nearly every server has.
struct CacheSizes {
  int64_t l1_bytes = 32 << 10;
  int64_t l2_bytes = 512 << 10;

  friend constexpr bool operator==(const CacheSizes&, const CacheSizes&) = default;
};

// CPUs in the process's affinity mask, cut to its cgroup's CPU quota (rounded up); at least 1.
int UsableCpus();

CacheSizes DetectCacheSizes();

// Physical memory, cut to the cgroup's limit.
Bytes UsableMemory();

}  // namespace attnd
