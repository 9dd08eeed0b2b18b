// SPDX-License-Identifier: Apache-2.0
//
// Where an element of a tile lies in LDS.
//
// A tile has rows of kRow 16-bit elements, in chunks of 8 (16 bytes, what a lane moves at once).
// The chunks of a row are permuted by an exclusive or with a function of the row, so that lanes
// which read one chunk of several rows meet different banks. The function is linear over GF(2): the
// parts of a row number that are known at compile time and those that depend on the lane are
// swizzled apart, and an unrolled loop needs few address registers and immediate offsets.
//
//   const std::byte* p = LdsTile<128>::At(keys, 16 * group, lane & 15, 2 * step, lane >> 4);
#pragma once

#include <cstddef>

#include "kernels/hip/gpu.h"

namespace attnd::gpu {

template <int kRow>
struct LdsTile {
  static_assert(kRow % 16 == 0, "rows are whole pairs of chunks");
  static constexpr int kRowBytes = 2 * kRow;
  // As many chunks as a power of two that divides the row holds, at most the 8 that meet all banks.
  static constexpr int kMask = kRow % 64 == 0 ? 7 : kRow % 32 == 0 ? 3 : 1;

  // Rows 0 to 7, {0..3, 8..11} and multiples of 8 all get different values where the mask is 7.
  ATTND_MEMBER constexpr int Swizzle(int row) {
    if constexpr (kMask == 7) return (row ^ ((row >> 1) & 4) ^ ((row >> 4) & 3)) & 7;
    return (row >> 1) & kMask;
  }
  // Byte offset of chunk (chunk + lane_chunk) of row (row + lane_row). The two parts of each sum
  // have no bit in common.
  ATTND_MEMBER int Offset(int row, int lane_row, int chunk, int lane_chunk) {
    const int lane_part = lane_row * kRowBytes + ((lane_chunk ^ Swizzle(lane_row)) << 4);
    return (lane_part ^ (((chunk ^ Swizzle(row)) & kMask) << 4)) + row * kRowBytes +
           ((chunk & ~kMask) << 4);
  }
  template <class Byte>
  ATTND_MEMBER Byte* At(Byte* tile, int row, int lane_row, int chunk, int lane_chunk) {
    return tile + Offset(row, lane_row, chunk, lane_chunk);
  }
};

}  // namespace attnd::gpu
