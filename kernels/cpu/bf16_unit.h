// SPDX-License-Identifier: Apache-2.0
//
// What of a CPU multiplies bf16. Pure after the first call, safe from any thread.
//
//   if (DetectBf16Unit() == Bf16Unit::kTile) ...
#pragma once

#include <cstdint>

namespace attnd {

// From the least to the best.
enum class Bf16Unit {
  kNone,  // convert to fp32
  kDot,   // AVX512-BF16: vdpbf16ps, two products a lane
  kTile,  // AMX-BF16: products of 16x32 and 32x16 tiles
};

const char* Name(Bf16Unit unit);  // "none", "avx512-bf16", "amx-bf16"

// The best one that this CPU has, the kernel lets us use and this build has kernels for. Asks Linux
// for the tile registers, once for the process.
Bf16Unit DetectBf16Unit();

// What ldtilecfg reads: every tile is 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
inline constexpr TileConfig kTileConfig;

}  // namespace attnd
