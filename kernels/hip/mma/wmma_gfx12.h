// SPDX-License-Identifier: Apache-2.0
//
// The tile of RDNA4's WMMA (gfx1200, gfx1201). Lane half h holds elements 8h to 8h + 7 of an
// operand's row, and rows 8h to 8h + 7 of the accumulator: an accumulator is the next operand as it
// stands.
//
// Layouts: AMD RDNA4 Instruction Set Architecture, "Wave Matrix Multiply Accumulate".
#pragma once

#include "kernels/hip/mma/amd_common.h"

#if !ATTND_GPU_SIMT
namespace attnd::gpu::amd {

template <class Element>
ATTND_DEVICE F32x8 WmmaGfx12(U32x4 a, U32x4 b, F32x8 c) {
#if defined(__GFX12__)
  typedef short S16x8 __attribute__((vector_size(16)));
  typedef _Float16 H16x8 __attribute__((vector_size(16)));
  if constexpr (kIsBFloat16<Element>) {
    return __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32_gfx12(__builtin_bit_cast(S16x8, a),
                                                             __builtin_bit_cast(S16x8, b), c);
  } else {
    return __builtin_amdgcn_wmma_f32_16x16x16_f16_w32_gfx12(__builtin_bit_cast(H16x8, a),
                                                            __builtin_bit_cast(H16x8, b), c);
  }
#else
  return c;
#endif
}

}  // namespace attnd::gpu::amd
#endif

namespace attnd::gpu {

template <class ElementT>
struct Gfx12Mma : RdnaMma<ElementT> {
  using Base = RdnaMma<ElementT>;
  using Query = U32x4;
  using Key = U32x4;
  using Acc = F32x8;

  ATTND_MEMBER int Remat(int x) { return x; }
  ATTND_MEMBER int Column(int lane, int /*sub*/, int i) { return ((lane >> 4) & 1) * 8 + i; }

  template <int kRow>
  ATTND_MEMBER Query LoadQuery(const std::byte* tile, int row, int step, int lane) {
    return Base::template Load16<kRow>(tile, row, lane & 15, 2 * step, lane >> 4);
  }
  template <int kRow>
  ATTND_MEMBER Key LoadKey(const std::byte* tile, int group, int /*sub*/, int step, int lane,
                           int key_base) {
    return Base::template Load16<kRow>(tile, 16 * group, key_base + (lane & 15), 2 * step,
                                       lane >> 4);
  }
  // Of a tile [dim][key].
  template <int kRow>
  ATTND_MEMBER Key LoadValue(const std::byte* tile, int dim_group, int /*sub*/, int key_group,
                             int lane, int key_base) {
    return Base::template Load16<kRow>(tile, 16 * dim_group, lane & 15, 2 * key_group,
                                       (key_base >> 3) + (lane >> 4));
  }
  ATTND_MEMBER void MultiplyAdd(Acc& acc, const Query& q, const Key& k) {
    acc = amd::WmmaGfx12<ElementT>(k, q, acc);
  }
  ATTND_MEMBER Query ToWeights(const Acc* p, int /*lane*/) {
    Query q;
    ATTND_UNROLL
    for (int i = 0; i < 4; ++i) q[i] = Base::Pack(p[0][2 * i], p[0][2 * i + 1]);
    return q;
  }
};

}  // namespace attnd::gpu
