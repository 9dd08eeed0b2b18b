// SPDX-License-Identifier: Apache-2.0
//
// How attention is cut up: the one place that knows why the tiles have their sizes.
//
// A tile shape depends on the head dim and the machine's caches, never on the batch: an item's
// result must not. Pure functions, safe from any thread.
//
//   TileShape shape = TileShapeFor(DetectCacheSizes(), /*head_dim_k=*/128, /*head_dim_v=*/128);
#pragma once

#include <cstdint>

#include "kernels/cpu/cpu_topology.h"

namespace attnd {

// Most query rows that a tile kernel computes at once, of all of them (12 with vectors, 32 with
// matrix tiles). Row tiles are multiples of the unit, which most kernels' blocks divide.
inline constexpr int64_t kMaxBlockRows = 32;
inline constexpr int64_t kRowTileUnit = 48;

// Most keys of a tile. Score rows have a fixed stride: room for weights in three parts of bf16, and
// a little longer, so that the rows of a block do not fall into the same cache sets.
inline constexpr int64_t kMaxKeyTile = 256;
inline constexpr int64_t kScoreStride = kMaxKeyTile * 3 / 2 + 16;

// Head dims in buffers are rounded up to this many fp32 elements: the widest vector.
inline constexpr int64_t kDimAlign = 16;
inline constexpr int64_t kMaxHeadDim = 256;

// Rows that the decode kernel takes; more go to the tile kernel. A row is one query of one query
// head; the rows of a KV head, over all query heads it serves, are computed together.
inline constexpr int64_t kMaxDecodeRows = 8;

// Keys that the decode kernel takes at a time: their K and V rows stay in L1 while the next ones
// are fetched.
inline constexpr int64_t kDecodeChunk = 32;

// A split is a run of keys whose partial result is computed on its own; splits begin at multiples
// of this position whatever the batch. Decode: 0.5 MiB of K and V at head_dim 128 in 16 bits, two
// hundred times what a partial result takes. Few rows in a tile: as long, in time, as a tile of
// many.
inline constexpr int64_t kDecodeSplitKeys = 1024;
inline constexpr int64_t kTileSplitKeys = 4096;

// A launch is cut into at least this many tiles of rows a thread, as far as they stay worth a
// packing of K and V, so that threads end together. Row tiles change no bit of a result.
inline constexpr int64_t kRowTilesPerThread = 4;
inline constexpr int64_t kMinRowTile = 2 * kRowTileUnit;

struct TileShape {
  int64_t row_tile = 0;  // most rows that share a packing of K and V; a multiple of kRowTileUnit
  int64_t key_tile = 0;  // keys packed at a time; a multiple of 32, at most kMaxKeyTile

  friend constexpr bool operator==(const TileShape&, const TileShape&) = default;
};

// What a core goes back to is the packed K and V of a tile, a quarter of L2 at most, and the packed
// queries and fp32 outputs of its rows, half of L2 at most; the rest is left to the rows of K and V
// that stream in. Elements are counted as fp32; in three parts of bf16 they take half as much
// again. At least 64 keys, or rescaling outweighs the product; at least 48 rows, or packing does.
constexpr TileShape TileShapeFor(const CacheSizes& caches, int64_t head_dim_k, int64_t head_dim_v) {
  const int64_t row_bytes = (head_dim_k + head_dim_v) * static_cast<int64_t>(sizeof(float));
  TileShape shape{.row_tile = kRowTileUnit * 64, .key_tile = kMaxKeyTile};
  while (shape.key_tile > 64 && shape.key_tile * row_bytes > caches.l2_bytes / 4) {
    shape.key_tile /= 2;
  }
  while (shape.row_tile > kRowTileUnit && shape.row_tile * row_bytes > caches.l2_bytes / 2) {
    shape.row_tile /= 2;
  }
  return shape;
}

constexpr int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace attnd
