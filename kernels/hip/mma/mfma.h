// SPDX-License-Identifier: Apache-2.0
//
// The tile of CDNA's MFMA (gfx90a, gfx942, gfx950), 64 lanes. The hardware's operand holds elements
// 4q to 4q + 3 of its row in quarter q of the wave, and so does the accumulator with its rows.
// Two such operands make one of ours, of depth 32, with the keys in an order that gives a lane 8
// neighbours: one 16-byte read of LDS, and on gfx950 one instruction.
//
// Layouts: AMD Instinct MI300 Instruction Set Architecture, "Matrix arithmetic instructions", and
// AMD's matrix instruction calculator.
#pragma once

#include "kernels/hip/mma/amd_common.h"

#if !ATTND_GPU_SIMT
namespace attnd::gpu::amd {

template <class Element>
ATTND_DEVICE F32x4 Mfma16x16x16(U32x2 a, U32x2 b, F32x4 c) {
#if defined(__GFX9__)
  typedef short S16x4 __attribute__((vector_size(8)));
  typedef _Float16 H16x4 __attribute__((vector_size(8)));
  if constexpr (kIsBFloat16<Element>) {
    return __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(__builtin_bit_cast(S16x4, a),
                                                     __builtin_bit_cast(S16x4, b), c, 0, 0, 0);
  } else {
    return __builtin_amdgcn_mfma_f32_16x16x16f16(__builtin_bit_cast(H16x4, a),
                                                 __builtin_bit_cast(H16x4, b), c, 0, 0, 0);
  }
#else
  return c;
#endif
}
template <class Element>
ATTND_DEVICE F32x4 Mfma16x16x32(U32x4 a, U32x4 b, F32x4 c) {
#if defined(__gfx950__)
  typedef __bf16 B16x8 __attribute__((vector_size(16)));
  typedef _Float16 H16x8 __attribute__((vector_size(16)));
  if constexpr (kIsBFloat16<Element>) {
    return __builtin_amdgcn_mfma_f32_16x16x32_bf16(__builtin_bit_cast(B16x8, a),
                                                   __builtin_bit_cast(B16x8, b), c, 0, 0, 0);
  } else {
    return __builtin_amdgcn_mfma_f32_16x16x32_f16(__builtin_bit_cast(H16x8, a),
                                                  __builtin_bit_cast(H16x8, b), c, 0, 0, 0);
  }
#else
  return c;
#endif
}

}  // namespace attnd::gpu::amd
#endif

namespace attnd::gpu {

// kDepth32: gfx950's instruction of depth 32.
template <class ElementT, bool kDepth32>
struct CdnaMma : AmdMma<ElementT> {
  using Base = AmdMma<ElementT>;
  static constexpr int kWaveSize = 64;
  static constexpr int kDepth = 32;
  static constexpr int kAccElems = 4;
  using Query = U32x4;
  using Key = U32x4;
  using Acc = F32x4;

  ATTND_MEMBER int Column(int lane, int sub, int i) { return (lane >> 4) * 8 + 4 * sub + i; }

  template <int kRow>
  ATTND_MEMBER Query LoadQuery(const std::byte* tile, int row, int step, int lane) {
    return Base::template Load16<kRow>(tile, row, lane & 15, 4 * step, lane >> 4);
  }
  template <int kRow>
  ATTND_MEMBER Key LoadKey(const std::byte* tile, int group, int sub, int step, int lane,
                           int key_base) {
    return Base::template Load16<kRow>(tile, 32 * group + 4 * sub, key_base + PermutedRow(lane),
                                       4 * step, lane >> 4);
  }
  // Of a tile [dim][key].
  template <int kRow>
  ATTND_MEMBER Key LoadValue(const std::byte* tile, int dim_group, int sub, int key_group, int lane,
                             int key_base) {
    return Base::template Load16<kRow>(tile, 32 * dim_group + 4 * sub, PermutedRow(lane),
                                       4 * key_group, (key_base >> 3) + (lane >> 4));
  }
  ATTND_MEMBER void MultiplyAdd(Acc& acc, const Query& q, const Key& k) {
    if constexpr (kDepth32) {
      acc = amd::Mfma16x16x32<ElementT>(k, q, acc);
    } else {
      acc = amd::Mfma16x16x16<ElementT>(U32x2{k[0], k[1]}, U32x2{q[0], q[1]}, acc);
      acc = amd::Mfma16x16x16<ElementT>(U32x2{k[2], k[3]}, U32x2{q[2], q[3]}, acc);
    }
  }
  ATTND_MEMBER Query ToWeights(const Acc* p, int /*lane*/) {
    Query q;
    ATTND_UNROLL
    for (int i = 0; i < 4; ++i) {
      q[i] = Base::Pack(p[i >> 1][2 * (i & 1)], p[i >> 1][2 * (i & 1) + 1]);
    }
    return q;
  }
  ATTND_MEMBER float RowMax(float x) {
    x = fmaxf(x, ShuffleXor(x, 16));
    return fmaxf(x, ShuffleXor(x, 32));
  }
  ATTND_MEMBER float RowSum(float x) {
    x += ShuffleXor(x, 16);
    return x + ShuffleXor(x, 32);
  }

 private:
  ATTND_MEMBER int PermutedRow(int lane) { return 8 * ((lane >> 2) & 3) + (lane & 3); }
};

}  // namespace attnd::gpu
