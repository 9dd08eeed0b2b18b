// SPDX-License-Identifier: Apache-2.0
//
// How a block of the attention kernel is cut: the one table that host and device share. The host
// plans and launches by it, the device asserts that it fits.
//
//   constexpr TileShape shape = TileShapeFor(Core::kNvMma, Compute::kBF16, 128, Phase::kPrefill);
#pragma once

#include <cstdint>

namespace attnd::gpu {

// Matrix cores, by the layout of their operands.
enum class Core : uint8_t { kWmmaGfx11, kWmmaGfx12, kMfma, kMfmaGfx950, kNvMma };
inline constexpr int kNumCores = 5;

// How scores and outputs are computed. kF32 cuts each number into three bfloat16 parts, which hold
// all of its 24 bits, and multiplies the six pairs of parts that matter; it takes q and KV of any
// type.
enum class Compute : uint8_t { kF16, kBF16, kF32 };
inline constexpr int kNumComputes = 3;
constexpr int NumParts(Compute compute) { return compute == Compute::kF32 ? 3 : 1; }

// kPrefill: many rows, each wave has its own. kDecode: 16 rows at most, the waves share them and
// take different keys.
enum class Phase : uint8_t { kPrefill, kDecode };
inline constexpr int kNumPhases = 2;

// Head dims that kernels are compiled for; others take the next larger one.
inline constexpr int kHeadDims[] = {64, 128, 256};
inline constexpr int kNumHeadDims = 3;
inline constexpr int kMaxHeadDim = 256;
inline constexpr int kHeadDimMultiple = 8;  // a row is whole chunks of 16 bytes
constexpr int CompiledHeadDim(int head_dim) {
  for (int compiled : kHeadDims) {
    if (head_dim <= compiled) return compiled;
  }
  return 0;
}

constexpr int WaveSize(Core core) {
  return core == Core::kMfma || core == Core::kMfmaGfx950 ? 64 : 32;
}
// Keys or dims that one matrix operand is deep.
constexpr int OperandDepth(Core core) { return WaveSize(core) == 64 ? 32 : 16; }
// Of AMD's 64 KiB, 128 bytes are those of BlockVote.
constexpr int MaxLdsBytes(Core core) { return core == Core::kNvMma ? 227 << 10 : (64 << 10) - 128; }

struct TileShape {
  int row_waves = 4;          // waves with rows of their own
  int key_waves = 1;          // waves that share rows and split a tile's keys
  int row_tiles = 1;          // tiles of 16 rows a wave
  int keys = 64;              // keys of a tile
  int stages = 2;             // tiles of K or V in LDS; 1: loaded in place, nothing ahead
  bool query_in_lds = false;  // read again for each tile, instead of held in registers

  constexpr int rows() const { return 16 * row_waves * row_tiles; }
  constexpr int waves() const { return row_waves * key_waves; }
  constexpr int threads(Core core) const { return waves() * WaveSize(core); }
  constexpr int keys_per_wave() const { return keys / key_waves; }
};

constexpr TileShape NvShape(Compute compute, int dim, Phase phase) {
  const bool parts = compute == Compute::kF32;
  if (phase == Phase::kDecode) {
    if (parts) return {1, 4, 1, 64, dim > 192 ? 1 : 2, dim > 64};
    return {1, 4, 1, 64, dim > 192 ? 3 : 6, false};
  }
  if (parts) {
    if (dim <= 64) return {4, 1, 1, 64, 2, false};
    if (dim <= 128) return {4, 1, 1, 32, 2, true};
    return {4, 1, 1, 16, 2, true};
  }
  if (dim <= 64) return {4, 1, 2, 64, 2, false};
  if (dim <= 128) return {4, 1, 2, 64, 2, true};
  return {4, 1, 1, 64, 2, true};
}

constexpr TileShape RdnaShape(Core core, Compute compute, int dim, Phase phase) {
  // gfx11 holds its operands twice.
  const bool wide = core == Core::kWmmaGfx11;
  if (compute == Compute::kF32) {
    if (dim <= 64) {
      return phase == Phase::kDecode ? TileShape{1, 4, 1, 64, 1, true}
                                     : TileShape{4, 1, 1, wide ? 32 : 64, 1, true};
    }
    if (dim <= 128) {
      return phase == Phase::kDecode ? TileShape{1, 2, 1, 32, 1, true}
                                     : TileShape{2, 1, 1, 32, 1, true};
    }
    return {1, 1, 1, 16, 1, true};
  }
  if (phase == Phase::kDecode) {
    return dim <= 128 ? TileShape{1, 4, 1, 64, 2, wide && dim > 64}
                      : TileShape{1, 4, 1, 64, 1, true};
  }
  if (dim <= 64) return {4, 1, 1, 64, 2, false};
  if (dim <= 128) return {4, 1, 1, 64, 2, wide};
  return {4, 1, 1, 16, 2, true};
}

constexpr TileShape CdnaShape(Compute compute, int dim, Phase phase) {
  if (compute == Compute::kF32) {
    if (dim <= 64) {
      return phase == Phase::kDecode ? TileShape{1, 2, 1, 64, 2, false}
                                     : TileShape{4, 1, 1, dim <= 32 ? 128 : 64, 2, false};
    }
    if (dim <= 128) {
      return phase == Phase::kDecode ? TileShape{1, 2, 1, 64, 1, false}
                                     : TileShape{4, 1, 1, 32, 2, false};
    }
    return phase == Phase::kDecode ? TileShape{1, 1, 1, 32, 1, false}
                                   : TileShape{2, 1, 1, 32, 1, false};
  }
  if (phase == Phase::kDecode) {
    return {1, 2, 1, 64, dim <= 128 ? 2 : 1, false};
  }
  if (dim <= 64) return {4, 1, 1, 128, 2, false};
  if (dim <= 128) return {4, 1, 1, 64, 2, false};
  return {4, 1, 1, 32, 2, false};
}

constexpr TileShape TileShapeFor(Core core, Compute compute, int dim, Phase phase) {
  switch (core) {
    case Core::kNvMma:
      return NvShape(compute, dim, phase);
    case Core::kWmmaGfx11:
    case Core::kWmmaGfx12:
      return RdnaShape(core, compute, dim, phase);
    case Core::kMfma:
    case Core::kMfmaGfx950:
      return CdnaShape(compute, dim, phase);
  }
  return {};
}

// Where the parts of a block's LDS lie.
struct LdsLayout {
  int query_bytes = 0;         // at 0
  bool query_in_ring = false;  // tiles take their place once they are in registers
  int tile_offset = 0;         // the ring of tiles of K and V
  int tile_bytes = 0;          // one of them
  // The epilogue, where the ring is in prefill and in the tile used last in decode: rows of the
  // output of every wave, then the largest score and the sum of each.
  int output_dims = 0;    // that pass at a time
  int output_stride = 0;  // floats of a row, padded against bank conflicts
  int statistics_offset = 0;
  int merged_offset = 0;  // of a block that merges its own splits: twice two floats a row
  int total_bytes = 0;
};

constexpr LdsLayout LdsLayoutFor(Core core, Compute compute, int dim, Phase phase) {
  const TileShape shape = TileShapeFor(core, compute, dim, phase);
  const int parts = NumParts(compute);
  LdsLayout lds;
  lds.query_bytes = shape.rows() * dim * 2 * parts;
  lds.tile_bytes = shape.keys * dim * 2 * parts;
  // Apart, tiles can be on their way before the queries are there; long rows of tiles gain nothing,
  // and both must fit.
  const bool fits = lds.query_bytes + shape.stages * lds.tile_bytes <= MaxLdsBytes(core);
  lds.query_in_ring = !shape.query_in_lds && (phase == Phase::kPrefill || !fits);
  lds.tile_offset = lds.query_in_ring ? 0 : lds.query_bytes;
  const int main_bytes = lds.tile_offset + shape.stages * lds.tile_bytes;
  int epilogue_bytes = 0;
  for (lds.output_dims = dim <= 128 ? dim : dim / 2;; lds.output_dims /= 2) {
    lds.output_stride = lds.output_dims + 4;
    lds.statistics_offset = shape.waves() * 16 * lds.output_stride * 4;
    epilogue_bytes = lds.statistics_offset + shape.waves() * 16 * 2 * 4;
    if (phase == Phase::kPrefill || epilogue_bytes <= lds.tile_bytes) break;
  }
  lds.merged_offset = main_bytes;
  lds.total_bytes = main_bytes + (phase == Phase::kDecode ? shape.rows() * 4 * 4 : 0);
  if (lds.query_bytes > lds.total_bytes) lds.total_bytes = lds.query_bytes;
  if (epilogue_bytes > lds.total_bytes) lds.total_bytes = epilogue_bytes;
  return lds;
}

}  // namespace attnd::gpu
