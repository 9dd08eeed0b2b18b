// SPDX-License-Identifier: Apache-2.0
//
// Philox4x32-10 on the device, draw for draw that of kernels/base/philox.h, whose std::array is not
// for device code.
#pragma once

#include <cstdint>

#include "kernels/hip/gpu.h"

namespace attnd::gpu {

struct Draws {
  uint32_t values[4];
};

ATTND_DEVICE Draws Philox4x32Draws(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2,
                                   uint32_t c3) {
  auto key0 = static_cast<uint32_t>(key);
  auto key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(0xD2511F53u) * c0;
    const uint64_t product1 = static_cast<uint64_t>(0xCD9E8D57u) * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ key0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ key1;
    c3 = static_cast<uint32_t>(product0);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

}  // namespace attnd::gpu
