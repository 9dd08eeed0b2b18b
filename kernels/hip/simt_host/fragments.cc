// SPDX-License-Identifier: Apache-2.0
//
// Compiled with optimization and without sanitizers whatever the rest is: a conformance run spends
// most of its time here, and it touches nothing but its own arrays.
#include "kernels/hip/simt_host/fragments.h"

#include <bit>
#include <cstring>

#include "kernels/base/dtype.h"

namespace attnd::simt {
namespace {

// Branch-free, so that it vectorizes: the exponent is rebased by an exact multiplication, which
// also makes subnormals normal.
[[gnu::always_inline]] inline float DecodeHalf(uint16_t half) {
  const uint32_t magnitude = half & 0x7fffu;
  const float rebased = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  const uint32_t special = magnitude >= 0x7c00u ? 0x7f800000u : 0u;
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(rebased) | special | sign);
}

template <int kRows, int kDepth>
[[gnu::always_inline]] inline void Decode(const uint16_t (&in)[16][32], bool bfloat16,
                                          float (&out)[kRows][kDepth]) {
  for (int row = 0; row < kRows; ++row) {
    if (bfloat16) {
      for (int k = 0; k < kDepth; ++k) out[row][k] = BFloat16ToFloat(in[row][k]);
    } else {
      for (int k = 0; k < kDepth; ++k) out[row][k] = DecodeHalf(in[row][k]);
    }
  }
}

// 16 floats as the compiler's vectors, in as many registers as the instruction set needs.
template <int kColumns>
struct Row {
  typedef float Floats __attribute__((vector_size(4 * kColumns)));
};

// Two rows at a time: their sums fill the registers that even SSE2 has. Without contraction of
// products and sums (a flag of this file) each instruction set gives the same bits.
template <int kColumns, int kDepth>
[[gnu::always_inline]] inline void MultiplyAdd(const float (&a)[16][kDepth],
                                               const float (&b)[kDepth][kColumns],
                                               float (&c)[16][16]) {
  using Floats = typename Row<kColumns>::Floats;
  for (int row = 0; row < 16; row += 2) {
    Floats first, second;
    std::memcpy(&first, c[row], sizeof(first));
    std::memcpy(&second, c[row + 1], sizeof(second));
    for (int k = 0; k < kDepth; ++k) {
      Floats b_row;
      std::memcpy(&b_row, b[k], sizeof(b_row));
      first += a[row][k] * b_row;
      second += a[row + 1][k] * b_row;
    }
    std::memcpy(c[row], &first, sizeof(first));
    std::memcpy(c[row + 1], &second, sizeof(second));
  }
}

template <int kColumns, int kDepth>
[[gnu::always_inline]] inline void RunTile(TileMultiplyAdd& tile, bool bfloat16) {
  float a[16][kDepth];
  float b_columns[kColumns][kDepth];
  float b[kDepth][kColumns];
  Decode(tile.a, bfloat16, a);
  Decode(tile.b, bfloat16, b_columns);
  for (int k = 0; k < kDepth; ++k) {
    for (int column = 0; column < kColumns; ++column) b[k][column] = b_columns[column][k];
  }
  MultiplyAdd(a, b, tile.c);
}

#if defined(__x86_64__)
#define ATTND_SIMT_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define ATTND_SIMT_CLONES
#endif
ATTND_SIMT_CLONES void RunTile16x16(TileMultiplyAdd& tile, bool bfloat16) {
  RunTile<16, 16>(tile, bfloat16);
}
ATTND_SIMT_CLONES void RunTile16x32(TileMultiplyAdd& tile, bool bfloat16) {
  RunTile<16, 32>(tile, bfloat16);
}
ATTND_SIMT_CLONES void RunTile8x16(TileMultiplyAdd& tile, bool bfloat16) {
  RunTile<8, 16>(tile, bfloat16);
}

}  // namespace

void TileMultiplyAdd::Run16x16(bool bfloat16) { RunTile16x16(*this, bfloat16); }
void TileMultiplyAdd::Run16x32(bool bfloat16) { RunTile16x32(*this, bfloat16); }
void TileMultiplyAdd::Run8x16(bool bfloat16) { RunTile8x16(*this, bfloat16); }

uint32_t PackNearest(float low, float high, bool bfloat16) {
  if (bfloat16) {
    return FloatToBFloat16(low) | static_cast<uint32_t>(FloatToBFloat16(high)) << 16;
  }
  return FloatToHalf(low) | static_cast<uint32_t>(FloatToHalf(high)) << 16;
}

namespace {

uint16_t HalfTowardZero(float value) {
  const uint16_t nearest = FloatToHalf(value);
  const uint32_t magnitude = std::bit_cast<uint32_t>(value) & 0x7fffffffu;
  if (magnitude >= 0x7f800000u) return nearest;  // an infinity or a NaN is exact
  const uint32_t rounded =
      std::bit_cast<uint32_t>(HalfToFloat(static_cast<uint16_t>(nearest & 0x7fffu)));
  return rounded > magnitude ? nearest - 1 : nearest;
}

}  // namespace

uint32_t PackTowardZero(float low, float high) {
  return HalfTowardZero(low) | static_cast<uint32_t>(HalfTowardZero(high)) << 16;
}

}  // namespace attnd::simt
