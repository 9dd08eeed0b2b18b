// SPDX-License-Identifier: Apache-2.0
//
// The buffers that one thread computes in, cut out of one allocation made at start.
//
// A plain struct over memory it does not own; one thread at a time.
//
//   std::vector<float> memory(Scratch::Elems(shape, 128, 128));
//   Scratch scratch(memory.data(), shape, 128, 128);
#pragma once

#include <cstdint>

#include "kernels/cpu/tile_shape.h"

namespace attnd {

struct Scratch {
  float* scores;  // [kMaxBlockRows][kScoreStride]: scores of a block of rows, then their weights
  // What queries, keys and values hold, and in which order, is the kernel's; fp32:
  float* queries;  // tile: [blocks of rows][head_dim_k][rows of a block]; decode: by row
  float* keys;     // [key_tile / panel][head_dim_k][panel], a panel two vectors wide
  float* values;  // [panels of head_dim_v][key_tile][panel], the last panel one or two vectors wide
  float* out;     // [row_tile][head_dim_v rounded up]
  float* max;     // [row_tile]
  float* sum;     // [row_tile][kDimAlign]: one partial sum a lane

  Scratch(float* memory, const TileShape& shape, int64_t head_dim_k, int64_t head_dim_v) {
    float* next = memory;
    const auto take = [&next](int64_t elems) {
      float* taken = next;
      next += RoundUp(elems, kDimAlign);
      return taken;
    };
    const int64_t dk = RoundUp(head_dim_k, kDimAlign), dv = RoundUp(head_dim_v, kDimAlign);
    scores = take(kMaxBlockRows * kScoreStride);
    const int64_t rows = RoundUp(shape.row_tile, kMaxBlockRows);
    queries = take(rows * dk);
    keys = take(shape.key_tile * dk);
    values = take(shape.key_tile * dv);
    out = take(rows * dv);
    max = take(shape.row_tile);
    sum = take(shape.row_tile * kDimAlign);
  }

  static constexpr int64_t Elems(const TileShape& shape, int64_t head_dim_k, int64_t head_dim_v) {
    const int64_t dims = RoundUp(head_dim_k, kDimAlign) + RoundUp(head_dim_v, kDimAlign);
    const int64_t rows = RoundUp(shape.row_tile, kMaxBlockRows);
    return kMaxBlockRows * kScoreStride + (rows + shape.key_tile) * dims + rows * (1 + kDimAlign) +
           kDimAlign;
  }
};

}  // namespace attnd
