// SPDX-License-Identifier: Apache-2.0
//
// The end of a task's rows, or of one of its splits: from accumulators in registers, by way of LDS,
// to memory in whole chunks.
//
// Three ways. Rows that a wave has to itself leave as they are, rounded. Rows that waves shared are
// added up first. Splits become partial results for merge.h; where one block computes all splits of
// its rows, it merges each as it ends, by the same arithmetic.
#pragma once

#include "kernels/hip/args.h"
#include "kernels/hip/gpu.h"
#include "kernels/hip/lds_tile.h"
#include "kernels/hip/numbers.h"
#include "kernels/hip/row_result.h"
#include "kernels/hip/rows.h"
#include "kernels/hip/softmax.h"
#include "kernels/hip/tile_shape.h"

namespace attnd::gpu {

// The dim of element `i` of a lane's accumulator for dims [16 dim_tile, 16 dim_tile + 16). Elements
// 2 j and 2 j + 1 are neighbours on all cores.
template <class Mma>
ATTND_DEVICE int DimOf(int lane, int dim_tile, int i) {
  constexpr int kSubs = Mma::kDepth / 16;
  return dim_tile / kSubs * Mma::kDepth + Mma::Column(lane, dim_tile % kSubs, i);
}

template <class Mma, Core kCore, Compute kCompute, int kDim, Phase kPhase>
class Epilogue {
 public:
  static constexpr TileShape kShape = TileShapeFor(kCore, kCompute, kDim, kPhase);
  static constexpr LdsLayout kLds = LdsLayoutFor(kCore, kCompute, kDim, kPhase);
  static constexpr int kRowTiles = kShape.row_tiles;
  static constexpr int kRowSlots = Mma::kRowsPerLane;
  static constexpr int kDimTiles = kDim / 16;
  using Acc = typename Mma::Acc;

  // What a lane has of its rows: sums of weights times values, and per row the largest score and
  // the sum of weights, its lane's share.
  struct Results {
    const Acc (&out)[kRowTiles][kDimTiles];
    const float (&largest)[kRowTiles][kRowSlots];
    const float (&sums)[kRowTiles][kRowSlots];
  };

  const AttendArgs& args;
  const Item& item;
  const AttendTask& task;
  TaskOfBlock of;
  Rows rows;
  float unit;  // 2^(unit * score) is the weight of a score
  int lane;
  int wave;

  // The `split`th split of the task, and whether it is the last one. `lds` is free once all waves
  // are here, and used until the next barrier.
  ATTND_ACCESSOR void Finish(std::byte* lds, int split, bool last, const Results& results) const {
    if constexpr (kShape.key_waves == 1 && NumParts(kCompute) == 1) {
      if (task.partial_row < 0) {
        StoreRows(lds, results);
        return;
      }
    }
    AddUpWaves(lds, split, last, results);
  }

 private:
  using Element = typename Mma::Element;
  using Scale = WeightScale<Mma, NumParts(kCompute)>;
  static constexpr int kThreads = kShape.threads(kCore);

  ATTND_ACCESSOR float RowSum(const Results& results, int row_tile, int slot) const {
    return Mma::RowSum(results.sums[row_tile][slot]) * Scale::kOfSums;
  }

  // Rows of one wave each, in the elements of the kernel.
  ATTND_ACCESSOR void StoreRows(std::byte* lds, const Results& results) const {
    BlockBarrier();  // everyone is done with what was there
    ATTND_UNROLL
    for (int m = 0; m < kRowTiles; ++m) {
      ATTND_UNROLL
      for (int r = 0; r < kRowSlots; ++r) {
        const int in_block = (wave * kRowTiles + m) * 16 + Mma::Row(lane, r);
        const int row = task.row_begin + in_block;
        const float sum = RowSum(results, m, r);
        RowResult result{false, 0.0f, 0.0f};
        if (row < task.row_end) {
          const int head = rows.Head(row);
          result = FinishRow(item, head, results.largest[m][r], sum, unit);
          result.factor *= Scale::kOfValues;
          if (Mma::LeadsRow(lane)) StoreLse(item, {rows.Query(row), head}, result);
        }
        ATTND_UNROLL
        for (int d = 0; d < kDimTiles; ++d) {
          ATTND_UNROLL
          for (int i = 0; i < Mma::kAccElems; i += 2) {
            if (Mma::RowSlot(i) != r) continue;
            const int dim = DimOf<Mma>(lane, d, i);
            std::byte* to =
                LdsTile<kDim>::At(lds, 0, in_block, 0, dim / kChunk) + 2 * (dim % kChunk);
            *reinterpret_cast<uint32_t*>(to) = RoundPair<Element>(
                result.Of(results.out[m][d][i]), result.Of(results.out[m][d][i + 1]));
          }
        }
      }
    }
    BlockBarrier();
    constexpr int kChunks = kDim / kChunk;
    ATTND_UNROLL
    for (int first = 0; first < kShape.rows() * kChunks; first += kThreads) {
      const int i = first + static_cast<int>(Opaque(threadIdx.x));
      const int in_block = i / kChunks, dim = i % kChunks * kChunk;
      const int row = task.row_begin + in_block;
      if (row >= task.row_end || dim >= args.head_dim_v) continue;
      *reinterpret_cast<U32x4*>(item.out.Row(rows.Query(row), rows.Head(row)) + 2 * dim) =
          *reinterpret_cast<const U32x4*>(LdsTile<kDim>::At(lds, 0, in_block, 0, i % kChunks));
    }
  }

  // Rows that may be shared by waves, in fp32, some of their dims at a time.
  ATTND_ACCESSOR void AddUpWaves(std::byte* lds, int split, bool last,
                                 const Results& results) const {
    constexpr int kDims = kLds.output_dims;
    constexpr int kChunks = kDims / kChunk;
    auto* numbers = reinterpret_cast<float*>(lds);
    auto* statistics = reinterpret_cast<float*>(lds + kLds.statistics_offset);
    ATTND_UNROLL
    for (int m = 0; m < kRowTiles; ++m) {
      ATTND_UNROLL
      for (int dims = 0; dims < kDim; dims += kDims) {
        BlockBarrier();  // everyone is done with what was there
        float* mine = numbers + wave * 16 * kLds.output_stride;
        ATTND_UNROLL
        for (int d = dims / 16; d < (dims + kDims) / 16; ++d) {
          ATTND_UNROLL
          for (int i = 0; i < Mma::kAccElems; ++i) {
            mine[Mma::Row(lane, Mma::RowSlot(i)) * kLds.output_stride + DimOf<Mma>(lane, d, i) -
                 dims] = results.out[m][d][i];
          }
        }
        if (dims == 0) {
          ATTND_UNROLL
          for (int r = 0; r < kRowSlots; ++r) {
            const float sum = RowSum(results, m, r);
            if (Mma::LeadsRow(lane)) {
              float* to = statistics + (wave * 16 + Mma::Row(lane, r)) * 2;
              to[0] = results.largest[m][r];
              to[1] = sum;
            }
          }
        }
        BlockBarrier();
        for (int i = static_cast<int>(Opaque(threadIdx.x)); i < kShape.row_waves * 16 * kChunks;
             i += kThreads) {
          StoreChunkOf(numbers, statistics, split, last, m, dims, i / kChunks, i % kChunks);
        }
      }
    }
  }

  // Chunk `chunk` of the dims in LDS, of row `r` of the 16 rows of each wave with its own rows.
  ATTND_ACCESSOR void StoreChunkOf(const float* numbers, const float* statistics, int split,
                                   bool last, int row_tile, int dims, int r, int chunk) const {
    const int row_wave = r / 16;
    const int row = task.row_begin + (row_wave * kRowTiles + row_tile) * 16 + r % 16;
    const int dim = dims + chunk * kChunk;
    if (row >= task.row_end || dim >= args.head_dim_v) return;
    // The waves that have a share of this row.
    const int first = row_wave * kShape.key_waves * 16 + r % 16;
    PartialRow sum = {MinusInfinity(), 0.0f, {}};
    ATTND_UNROLL
    for (int w = 0; w < kShape.key_waves; ++w) {
      sum.largest = fmaxf(sum.largest, statistics[(first + w * 16) * 2]);
    }
    const float base = sum.largest == MinusInfinity() ? 0.0f : sum.largest;
    ATTND_UNROLL
    for (int w = 0; w < kShape.key_waves; ++w) {
      const float* of_wave = statistics + (first + w * 16) * 2;
      const float share = kShape.key_waves == 1 ? 1.0f : Exp2((of_wave[0] - base) * unit);
      const float share_of_values = share * Scale::kOfValues;
      sum.sum += share * of_wave[1];
      const float* from = numbers + (first + w * 16) * kLds.output_stride + chunk * kChunk;
      ATTND_UNROLL
      for (int i = 0; i < kChunk; ++i) sum.values[i] += share_of_values * from[i];
    }
    if (task.partial_row >= 0) {
      const int rows_of_split = task.row_end - task.row_begin;
      const int at = task.partial_row + row - task.row_begin;
      if (task.range >= 0) {
        const int64_t place = FindPartial(at, split, rows_of_split, of.kv_head, args.kv_heads);
        StoreValues(args.partial, place, args.head_dim_v, dim, sum);
        if (dim == 0) {
          args.partial.largest[place] = sum.largest;
          args.partial.sums[place] = sum.sum;
        }
        return;
      }
      if constexpr (kPhase == Phase::kDecode) {
        // What was merged before: values in the workspace, where a thread finds its own, and what
        // all threads of a row need in LDS, by turns here and there.
        const int64_t place = FindPartial(at, 0, rows_of_split, of.kv_head, args.kv_heads);
        auto* merged = reinterpret_cast<float*>(Lds() + kLds.merged_offset) + 2 * r;
        if (split > 0) {
          const float* from = merged + split % 2 * 2 * kShape.rows();
          PartialRow before = {from[0], from[1], {}};
          LoadValues(args.partial, place, args.head_dim_v, dim, before);
          Merge(before, sum, unit);
          sum = before;
        }
        if (!last) {
          StoreValues(args.partial, place, args.head_dim_v, dim, sum);
          if (dim == 0) {
            float* to = merged + (split + 1) % 2 * 2 * kShape.rows();
            to[0] = sum.largest;
            to[1] = sum.sum;
          }
          return;
        }
      }
    }
    const OutputRow to{rows.Query(row), rows.Head(row)};
    StoreResult(item, args.q_type, to, dim, FinishRow(item, to.head, sum.largest, sum.sum, unit),
                sum.values);
  }
};

}  // namespace attnd::gpu
