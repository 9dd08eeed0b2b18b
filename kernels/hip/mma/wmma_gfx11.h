// SPDX-License-Identifier: Apache-2.0
//
// The tile of RDNA3's WMMA (gfx1100, gfx1101, gfx1102). An operand holds all 16 elements of its row
// in both halves of the wave; the accumulator has row 2i + h in element i of lane half h. Keys (and
// dims of V) are fed in an order that makes accumulator row 2i + h stand for key 8h + i, so that
// each half holds 8 neighbours.
//
// Layouts: AMD RDNA3 Instruction Set Architecture, section 7.9, "Wave Matrix Multiply Accumulate".
#pragma once

#include "kernels/hip/mma/amd_common.h"

#if !ATTND_GPU_SIMT
namespace attnd::gpu::amd {

template <class Element>
ATTND_DEVICE F32x8 WmmaGfx11(U32x8 a, U32x8 b, F32x8 c) {
#if defined(__GFX11__)
  typedef short S16x16 __attribute__((vector_size(32)));
  typedef _Float16 H16x16 __attribute__((vector_size(32)));
  if constexpr (kIsBFloat16<Element>) {
    return __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32(__builtin_bit_cast(S16x16, a),
                                                       __builtin_bit_cast(S16x16, b), c);
  } else {
    return __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(__builtin_bit_cast(H16x16, a),
                                                      __builtin_bit_cast(H16x16, b), c);
  }
#else
  return c;
#endif
}
}  // namespace attnd::gpu::amd
#endif

namespace attnd::gpu {

template <class ElementT>
struct Gfx11Mma : RdnaMma<ElementT> {
  using Base = RdnaMma<ElementT>;
  using Query = U32x8;
  using Key = U32x8;
  using Acc = F32x8;

  ATTND_MEMBER int Column(int lane, int /*sub*/, int i) { return ((lane >> 4) & 1) * 8 + i; }

  template <int kRow>
  ATTND_MEMBER Query LoadQuery(const std::byte* tile, int row, int step, int lane) {
    return Load<kRow>(tile, row, lane & 15, 2 * step, 0);
  }
  template <int kRow>
  ATTND_MEMBER Key LoadKey(const std::byte* tile, int group, int /*sub*/, int step, int lane,
                           int key_base) {
    return Load<kRow>(tile, 16 * group, key_base + PermutedRow(lane), 2 * step, 0);
  }
  // Of a tile [dim][key].
  template <int kRow>
  ATTND_MEMBER Key LoadValue(const std::byte* tile, int dim_group, int /*sub*/, int key_group,
                             int lane, int key_base) {
    return Load<kRow>(tile, 16 * dim_group, PermutedRow(lane), 2 * key_group, key_base >> 3);
  }
  ATTND_MEMBER void MultiplyAdd(Acc& acc, const Query& q, const Key& k) {
    acc = amd::WmmaGfx11<ElementT>(k, q, acc);
  }
  // Each half has the weights of its own 8 keys and fetches the other's.
  ATTND_MEMBER Query ToWeights(const Acc* p, int lane) {
    Query q;
    const bool upper = (lane & 16) != 0;
    ATTND_UNROLL
    for (int i = 0; i < 4; ++i) {
      const uint32_t own = Base::Pack(p[0][2 * i], p[0][2 * i + 1]);
      const uint32_t other = amd::SwapHalves16(own);
      q[i] = upper ? other : own;
      q[4 + i] = upper ? own : other;
    }
    return q;
  }

 private:
  ATTND_MEMBER int PermutedRow(int lane) { return ((lane >> 1) & 7) + 8 * (lane & 1); }
  // `chunk` is even.
  template <int kRow>
  ATTND_MEMBER U32x8 Load(const std::byte* tile, int row, int lane_row, int chunk, int lane_chunk) {
    const U32x4 a = Base::template Load16<kRow>(tile, row, lane_row, chunk, lane_chunk);
    const U32x4 b = Base::template Load16<kRow>(tile, row, lane_row, chunk + 1, lane_chunk);
    return U32x8{a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]};
  }
};

}  // namespace attnd::gpu
