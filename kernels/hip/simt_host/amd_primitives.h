// SPDX-License-Identifier: Apache-2.0
//
// AMD's matrix instructions and lane operations on the host, under the names that kernels/hip/mma
// gives to the compiler's builtins. The matrix instructions are wave-wide: a lane passes its
// registers and gets back its part of D.
//
// Layouts, `half` = lane / 16, elements of a register pair from the lower bits on; each was
// compared lane by lane with the output of AMD's Matrix Instruction Calculator
// (github.com/ROCm/amd_matrix_instruction_calculator), which covers all but gfx950's:
//   gfx11   "RDNA3" Instruction Set Architecture, 7.9 Wave Matrix Multiply Accumulate.
//           A: row lane % 16, element i is k = i, the same in both halves; B likewise by columns.
//           D: element i is row 2i + half, column lane % 16.
//   gfx12   "RDNA4" Instruction Set Architecture, Wave Matrix Multiply Accumulate.
//           A: row lane % 16, element i is k = 8 (i / 4) + 4 half + i % 4; B likewise by columns.
//           D: element i is row 8 half + i, column lane % 16.
//           A kernel may load k = 8 half + i instead, as long as A and B agree: a sum has no order.
//   MFMA    "AMD Instinct MI300" Instruction Set Architecture, 7 Matrix Arithmetic Instructions.
//           A: row lane % 16, element i is k = 4 (lane / 16) + i; B likewise by columns.
//           D: element i is row 4 (lane / 16) + i, column lane % 16.
//   gfx950's 16x16x32: the same with k = 8 (lane / 16) + i ("CDNA4" Instruction Set Architecture;
//           as in Composable Kernel's WarpGemmAttributeMfmaImplF16F16F32M16N16K32: ABKLane 4,
//           ABKPerLane 8).
#pragma once

#include <cstdint>

#include "kernels/hip/element.h"
#include "kernels/hip/mma/vectors.h"
#include "kernels/hip/simt_host/device.h"
#include "kernels/hip/simt_host/fragments.h"

namespace attnd::simt {

enum class AmdMatrixCore { kWmmaGfx11, kWmmaGfx12, kMfma16, kMfma32 };

// d = a b + d with the registers of the lane that runs.
void MultiplyAddAmd(AmdMatrixCore core, bool bfloat16, const uint32_t* a, const uint32_t* b,
                    float* d, const Site& site);

}  // namespace attnd::simt

namespace attnd::gpu::amd {

// v_wmma_f32_16x16x16_{f16,bf16}, wave32, gfx11. Reports operands whose halves differ.
template <class Element>
F32x8 WmmaGfx11(U32x8 a, U32x8 b, F32x8 c, const char* file = __builtin_FILE(),
                int line = __builtin_LINE()) {
  simt::MultiplyAddAmd(simt::AmdMatrixCore::kWmmaGfx11, kIsBFloat16<Element>,
                       reinterpret_cast<const uint32_t*>(&a), reinterpret_cast<const uint32_t*>(&b),
                       reinterpret_cast<float*>(&c), {"WmmaGfx11", file, line});
  return c;
}

// v_wmma_f32_16x16x16_{f16,bf16}, wave32, gfx12.
template <class Element>
F32x8 WmmaGfx12(U32x4 a, U32x4 b, F32x8 c, const char* file = __builtin_FILE(),
                int line = __builtin_LINE()) {
  simt::MultiplyAddAmd(simt::AmdMatrixCore::kWmmaGfx12, kIsBFloat16<Element>,
                       reinterpret_cast<const uint32_t*>(&a), reinterpret_cast<const uint32_t*>(&b),
                       reinterpret_cast<float*>(&c), {"WmmaGfx12", file, line});
  return c;
}

// v_mfma_f32_16x16x16_{f16,bf16}, wave64.
template <class Element>
F32x4 Mfma16x16x16(U32x2 a, U32x2 b, F32x4 c, const char* file = __builtin_FILE(),
                   int line = __builtin_LINE()) {
  simt::MultiplyAddAmd(simt::AmdMatrixCore::kMfma16, kIsBFloat16<Element>,
                       reinterpret_cast<const uint32_t*>(&a), reinterpret_cast<const uint32_t*>(&b),
                       reinterpret_cast<float*>(&c), {"Mfma16x16x16", file, line});
  return c;
}

// v_mfma_f32_16x16x32_{f16,bf16}, wave64, gfx950.
template <class Element>
F32x4 Mfma16x16x32(U32x4 a, U32x4 b, F32x4 c, const char* file = __builtin_FILE(),
                   int line = __builtin_LINE()) {
  simt::MultiplyAddAmd(simt::AmdMatrixCore::kMfma32, kIsBFloat16<Element>,
                       reinterpret_cast<const uint32_t*>(&a), reinterpret_cast<const uint32_t*>(&b),
                       reinterpret_cast<float*>(&c), {"Mfma16x16x32", file, line});
  return c;
}

// v_permlanex16_b32 with identity selectors: the value of lane ^ 16, wave32.
uint32_t SwapHalves16(uint32_t x, const char* file = __builtin_FILE(), int line = __builtin_LINE());

// v_perm_b32: byte i of the result is chosen by byte i of `selector`: 0 to 3 from `lo`, 4 to 7 from
// `hi`, 8 to 11 the sign of byte 1, 3, 5 or 7 in all bits, 12 is 0x00, above is 0xff ("RDNA3"
// Instruction Set Architecture, V_PERM_B32).
constexpr uint32_t PermuteBytes(uint32_t hi, uint32_t lo, uint32_t selector) {
  const uint64_t bytes = static_cast<uint64_t>(hi) << 32 | lo;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t choice = (selector >> (8 * i)) & 0xffu;
    uint32_t byte = choice == 12 ? 0x00u : 0xffu;
    if (choice < 8) {
      byte = static_cast<uint32_t>(bytes >> (8 * choice)) & 0xffu;
    } else if (choice < 12) {
      byte = (bytes >> (16 * (choice - 8) + 15) & 1) != 0 ? 0xffu : 0x00u;
    }
    result |= byte << (8 * i);
  }
  return result;
}

// v_cvt_pkrtz_f16_f32.
inline uint32_t PackHalvesTowardZero(float low, float high) {
  return simt::PackTowardZero(low, high);
}

}  // namespace attnd::gpu::amd
