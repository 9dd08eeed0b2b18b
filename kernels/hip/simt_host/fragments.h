// SPDX-License-Identifier: Apache-2.0
//
// The arithmetic of a matrix core, without a layout: D = A B + C on whole tiles.
//
// Inputs are f16 or bf16, subnormals kept; products are exact in fp32 (but for bf16 beyond its
// range) and are added in fp32 in the order of k, from C on, each sum rounded to nearest even.
// Hardware may add in another order and precision, so tests compare within a bound.
//
// Thread safety: pure functions.
//
//   TileMultiplyAdd tile;
//   tile.a[row][k] = ...; tile.b[column][k] = ...; tile.c[row][column] = ...;
//   tile.Run16x16(/*bfloat16=*/false);
#pragma once

#include <cstdint>

namespace attnd::simt {

// Rows and columns of the largest instruction: 16x16, depth 32. B is kept by columns.
struct alignas(64) TileMultiplyAdd {
  uint16_t a[16][32];
  uint16_t b[16][32];
  float c[16][16];

  // c[:][:columns] += a[:][:depth] b[:columns][:depth], columns x depth.
  void Run16x16(bool bfloat16);
  void Run16x32(bool bfloat16);
  void Run8x16(bool bfloat16);
};

// Two halves rounded toward zero (a finite value never becomes infinite).
uint32_t PackTowardZero(float low, float high);

}  // namespace attnd::simt
