// SPDX-License-Identifier: Apache-2.0
//
// What of a CPU multiplies bf16. Pure after the first call, safe from any thread.
//
//   if (DetectBf16Unit() == Bf16Unit::kTile) ...
#pragma once

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

}  // namespace attnd
