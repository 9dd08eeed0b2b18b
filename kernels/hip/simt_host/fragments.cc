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

// What follows is compiled for vectors of 4, 8 and 16 floats. Without contraction of products and
// sums (a flag of this file) each gives the same bits.
template <int kWidth>
struct Vectors {
  // NOLINTBEGIN(modernize-use-using): GCC takes a size that depends on a template only here
  typedef uint16_t Words __attribute__((vector_size(2 * kWidth)));
  typedef uint32_t Bits __attribute__((vector_size(4 * kWidth)));
  typedef float Floats __attribute__((vector_size(4 * kWidth)));
  // NOLINTEND(modernize-use-using)
};

template <int kWidth>
[[gnu::always_inline]] inline void Decode(const uint16_t* in, bool bfloat16, float* out) {
  using V = Vectors<kWidth>;
  typename V::Words words;
  std::memcpy(&words, in, sizeof(words));
  const auto bits = __builtin_convertvector(words, typename V::Bits);
  auto result = bits << 16;
  if (!bfloat16) {
    // The exponent is rebased by an exact multiplication, which makes subnormals normal too.
    const auto magnitude = bits & 0x7fffu;
    const auto rebased = (typename V::Bits)((typename V::Floats)(magnitude << 13) * 0x1p112f);
    const auto special = (typename V::Bits)(magnitude >= 0x7c00u) & 0x7f800000u;
    result = rebased | special | (bits & 0x8000u) << 16;
  }
  std::memcpy(out, &result, sizeof(result));
}

// Two rows at a time, so that their sums stay in registers.
template <int kColumns, int kDepth, int kWidth>
[[gnu::always_inline]] inline void RunTile(TileMultiplyAdd& tile, bool bfloat16) {
  using Floats = typename Vectors<kWidth>::Floats;
  constexpr int kVectors = kColumns / kWidth;
  float a[16][kDepth];
  float b_columns[kColumns][kDepth];
  float b[kDepth][kColumns];
  for (int k = 0; k < kDepth; k += kWidth) {
    for (int row = 0; row < 16; ++row) Decode<kWidth>(&tile.a[row][k], bfloat16, &a[row][k]);
    for (int column = 0; column < kColumns; ++column) {
      Decode<kWidth>(&tile.b[column][k], bfloat16, &b_columns[column][k]);
    }
  }
  for (int k = 0; k < kDepth; ++k) {
    for (int column = 0; column < kColumns; ++column) b[k][column] = b_columns[column][k];
  }
  for (int row = 0; row < 16; row += 2) {
    Floats sums[2][kVectors];
    std::memcpy(sums[0], tile.c[row], sizeof(sums[0]));
    std::memcpy(sums[1], tile.c[row + 1], sizeof(sums[1]));
    for (int k = 0; k < kDepth; ++k) {
      for (int v = 0; v < kVectors; ++v) {
        Floats b_row;
        std::memcpy(&b_row, &b[k][v * kWidth], sizeof(b_row));
        sums[0][v] += a[row][k] * b_row;
        sums[1][v] += a[row + 1][k] * b_row;
      }
    }
    std::memcpy(tile.c[row], sums[0], sizeof(sums[0]));
    std::memcpy(tile.c[row + 1], sums[1], sizeof(sums[1]));
  }
}

using Runner = void (*)(TileMultiplyAdd&, bool);

#if defined(__x86_64__)
template <int kColumns, int kDepth>
[[gnu::target("avx512f,avx512bw,avx512vl")]] void RunAvx512(TileMultiplyAdd& tile, bool bfloat16) {
  RunTile<kColumns, kDepth, kColumns>(tile, bfloat16);
}
template <int kColumns, int kDepth>
[[gnu::target("avx2")]] void RunAvx2(TileMultiplyAdd& tile, bool bfloat16) {
  RunTile<kColumns, kDepth, 8>(tile, bfloat16);
}
#endif
template <int kColumns, int kDepth>
void RunBaseline(TileMultiplyAdd& tile, bool bfloat16) {
  RunTile<kColumns, kDepth, 4>(tile, bfloat16);
}

template <int kColumns, int kDepth>
Runner ChooseRunner() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    return &RunAvx512<kColumns, kDepth>;
  }
  if (__builtin_cpu_supports("avx2")) return &RunAvx2<kColumns, kDepth>;
#endif
  return &RunBaseline<kColumns, kDepth>;
}

}  // namespace

void TileMultiplyAdd::Run16x16(bool bfloat16) {
  static const Runner run = ChooseRunner<16, 16>();
  run(*this, bfloat16);
}
void TileMultiplyAdd::Run16x32(bool bfloat16) {
  static const Runner run = ChooseRunner<16, 32>();
  run(*this, bfloat16);
}
void TileMultiplyAdd::Run8x16(bool bfloat16) {
  static const Runner run = ChooseRunner<8, 16>();
  run(*this, bfloat16);
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
