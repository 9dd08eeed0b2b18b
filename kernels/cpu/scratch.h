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

  Scratch(float* memory, const TileShape& shape, int64_t head_dim_k, int64_t head_dim_v)
      : Scratch(memory, Sizes(shape, head_dim_k, head_dim_v)) {}

  static constexpr int64_t Elems(const TileShape& shape, int64_t head_dim_k, int64_t head_dim_v) {
    const Sizes sizes(shape, head_dim_k, head_dim_v);
    return sizes.scores + sizes.queries + sizes.keys + sizes.values + sizes.out + sizes.max +
           sizes.sum;
  }

 private:
  // Whole cache lines each. An element takes 6 bytes at most, three parts of bf16, which are packed
  // in runs of 32 elements.
  struct Sizes {
    int64_t scores, queries, keys, values, out, max, sum;

    constexpr Sizes(const TileShape& shape, int64_t head_dim_k, int64_t head_dim_v) {
      const int64_t dk = RoundUp(head_dim_k, 32) * 3 / 2, dv = RoundUp(head_dim_v, kDimAlign);
      const int64_t rows = RoundUp(shape.row_tile, kMaxBlockRows);
      scores = kMaxBlockRows * kScoreStride;
      queries = rows * dk;
      keys = shape.key_tile * dk;
      values = shape.key_tile * dv * 3 / 2;
      out = rows * dv;
      max = RoundUp(shape.row_tile, kDimAlign);
      sum = shape.row_tile * kDimAlign;
    }
  };

  Scratch(float* memory, const Sizes& sizes)
      : scores(memory),
        queries(scores + sizes.scores),
        keys(queries + sizes.queries),
        values(keys + sizes.keys),
        out(values + sizes.values),
        max(out + sizes.out),
        sum(max + sizes.max) {}
};

}  // namespace attnd
