// SPDX-License-Identifier: Apache-2.0
//
// What the tiles of AMD's matrix cores share: S^T = K Q^T and O^T = V^T P^T, a query as a column of
// the accumulator, one query a lane. The lanes' accumulator registers then are, but for an order of
// the keys that each trait chooses, the operand of the next product.
#pragma once

#include "kernels/hip/element.h"
#include "kernels/hip/gpu.h"
#include "kernels/hip/lds_tile.h"
#include "kernels/hip/mma/vectors.h"
#if ATTND_GPU_SIMT
#include "kernels/hip/simt_host/amd_primitives.h"
#else

namespace attnd::gpu::amd {

// v_perm_b32: byte i of the result is byte selector[i] of {lo (0 to 3), hi (4 to 7)}.
ATTND_DEVICE uint32_t PermuteBytes(uint32_t hi, uint32_t lo, uint32_t selector) {
  return __builtin_amdgcn_perm(hi, lo, selector);
}
// v_cvt_pkrtz_f16_f32: two halves, rounded toward zero; `low` in the lower one.
ATTND_DEVICE uint32_t PackHalvesTowardZero(float low, float high) {
  return __builtin_bit_cast(uint32_t, __builtin_amdgcn_cvt_pkrtz(low, high));
}

// v_permlanex16 with the identity: the value of lane ^ 16.
ATTND_DEVICE uint32_t SwapHalves16(uint32_t x) {
#if defined(__GFX11__) || defined(__GFX12__)
  return __builtin_amdgcn_permlanex16(x, x, 0x76543210u, 0xfedcba98u, false, false);
#else
  return x;
#endif
}

}  // namespace attnd::gpu::amd
#endif

namespace attnd::gpu {

template <class ElementT>
struct AmdMma {
  using Element = ElementT;
  static constexpr int kRowsPerLane = 1;
  static constexpr int kNeighbours = 4;  // elements of an accumulator that are neighbours in a row
  static constexpr bool kValuesTransposed = true;
  static constexpr bool kAsyncCopies = false;
  static constexpr bool kCutsWeights = !kIsBFloat16<ElementT>;

  ATTND_MEMBER constexpr int RowSlot(int) { return 0; }
  ATTND_MEMBER int Row(int lane, int) { return lane & 15; }
  ATTND_MEMBER bool LeadsRow(int lane) { return lane < 16; }
  ATTND_MEMBER int Remat(int x) { return x; }

  // Weights to pairs. Halves are cut off toward zero, which takes one instruction: weights come
  // larger by half of what is cut off at most (kCutsWeights). bfloat16 is rounded to nearest, half
  // up.
  ATTND_MEMBER uint32_t Pack(float low, float high) {
    if constexpr (kIsBFloat16<Element>) {
      return amd::PermuteBytes(FloatToBits(high) + 0x8000u, FloatToBits(low) + 0x8000u,
                               0x07060302u);
    } else {
      return amd::PackHalvesTowardZero(low, high);
    }
  }

  // A chunk of a tile in LDS.
  template <int kRow>
  ATTND_MEMBER U32x4 Load16(const std::byte* tile, int row, int lane_row, int chunk,
                            int lane_chunk) {
    return *reinterpret_cast<const U32x4*>(
        LdsTile<kRow>::At(tile, row, lane_row, chunk, lane_chunk));
  }
};

// WMMA's: 32 lanes, two for each query.
template <class ElementT>
struct RdnaMma : AmdMma<ElementT> {
  static constexpr int kWaveSize = 32;
  static constexpr int kDepth = 16;
  static constexpr int kAccElems = 8;

  // Some 40 LDS addresses hoisted out of the loop would spill: they are computed again for each
  // tile.
  ATTND_MEMBER int Remat(int x) { return Opaque(x); }
  ATTND_MEMBER float RowMax(float x) { return fmaxf(x, Swap(x)); }
  ATTND_MEMBER float RowSum(float x) { return x + Swap(x); }

 private:
  ATTND_MEMBER float Swap(float x) { return BitsToFloat(amd::SwapHalves16(FloatToBits(x))); }
};

}  // namespace attnd::gpu
