// SPDX-License-Identifier: Apache-2.0
//
// The tile kernel: many rows of one KV head, blocked. For each tile of keys, K and V are packed
// once and stay in L2; each block of rows then goes through scores, softmax and values while its
// scores stay in L1. Tiles that no row sees are skipped, only those at an edge are masked. What is
// packed and how it is multiplied is a parameter, the Math: fp32 multiply-adds here, every dtype
// on AMX in amx-inl.h, bf16 on AVX512-BF16 in bf16-inl.h. Included once per Highway target.
#if defined(ATTND_KERNELS_CPU_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTND_KERNELS_CPU_TILE_INL_H_
#undef ATTND_KERNELS_CPU_TILE_INL_H_
#else
#define ATTND_KERNELS_CPU_TILE_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/cpu/attention_task.h"
#include "kernels/cpu/convert-inl.h"
#include "kernels/cpu/finish-inl.h"
#include "kernels/cpu/gemm-inl.h"
#include "kernels/cpu/pack-inl.h"
#include "kernels/cpu/score-inl.h"
#include "kernels/cpu/scratch.h"

HWY_BEFORE_NAMESPACE();
namespace attnd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// One tile of keys, packed.
struct KeyTile {
  int64_t begin;     // position of column 0
  KeyRange keys;     // what is packed of it
  int64_t key_tile;  // rows of a value panel
  // What packing left out, since the Math could not multiply it: zeros stand there.
  bool keys_left_out;    // whole keys
  bool values_left_out;  // single elements
};

HWY_INLINE KeyRange Intersect(KeyRange a, KeyRange b) {
  const KeyRange both{std::max(a.begin, b.begin), std::min(a.end, b.end)};
  return both.empty() ? KeyRange{0, 0} : both;
}

// One block of rows within one packed tile: what a Math multiplies. out rows are `stride` apart.
struct BlockOperands {
  const RowBlock& block;
  const KeyTile& tile;
  bool queries_left_out;  // of some block, by packing
  int64_t dk, dv;
  const float* queries;
  const float* keys;
  const float* values;
  float* out;
  int64_t stride;
};

// The register kernels for a block of few or many rows, rounded up to thirds of a full block.
template <class F>
HWY_INLINE HWY_ATTR void WithBlockRows(int64_t rows, F&& f) {
  constexpr int kThird = kBlockRows / 3;
  if (rows > 2 * kThird) return f(std::integral_constant<int, kBlockRows>{});
  if (rows > kThird) return f(std::integral_constant<int, 2 * kThird>{});
  return f(std::integral_constant<int, kThird>{});
}

// Attention in fp32, whatever the storage. For other Maths: all functions are static.
template <class T>
struct FloatMath {
  using Storage = T;
  static constexpr int64_t kRows = kBlockRows;

  // Once a task, before and after everything else.
  static void Begin() {}
  static void End() {}

  static int64_t QueryElems(int64_t dk) { return dk; }  // floats a row takes in the packed queries

  // Returns whether queries were left out.
  HWY_ATTR static bool PackBlock(const RowBlock& block, DType q_dtype, int64_t dk, float* queries) {
    DispatchElement(q_dtype, [&](auto element)
                                 HWY_ATTR { PackQueries<decltype(element)>(block, dk, queries); });
    return false;
  }
  HWY_ATTR static void PackTile(const TaskArgs& args, float* keys, float* values, KeyTile& tile) {
    const int64_t dk = args.params.key.head_dim_k, dv = args.params.key.head_dim_v;
    const int32_t head = args.task.kv_head;
    PackKeys<T>(args.item, head, dk, tile.begin, tile.keys, keys);
    tile.values_left_out =
        PackValues<T>(args.item, head, dv, tile.begin, tile.keys, tile.key_tile, values);
  }

  // Columns of scores for `keys` keys: whole vectors.
  static int64_t ScoreColumns(int64_t keys) { return RoundUp(keys, FloatLanes()); }

  HWY_NOINLINE HWY_ATTR static void Scores(const BlockOperands& o, const ScoreBlock& s) {
    const int64_t panel = 2 * FloatLanes();
    WithBlockRows(o.block.rows, [&](auto rows) HWY_ATTR {
      int64_t c = s.begin;
      for (; c + panel <= s.end; c += panel) {
        ScorePanel<rows, 2>(o.queries, o.keys + c * o.dk, o.dk, s.scores + c);
      }
      if (c < s.end) ScorePanel<rows, 1>(o.queries, o.keys + c * o.dk, o.dk, s.scores + c);
    });
  }

  HWY_ATTR static void Weigh(const RowBlock& block, const ScoreBlock& s, float* max, float* sum,
                             float* rescale) {
    ScoresToWeights(block, s, max, sum, rescale);
  }

  // out = out * rescale + weights . values over `keys`.
  HWY_NOINLINE HWY_ATTR static void AddValues(const BlockOperands& o, KeyRange keys,
                                              const float* weights, const float* rescale) {
    const int64_t lanes = FloatLanes(), vectors = (o.dv + lanes - 1) / lanes;
    const int64_t first = keys.begin - o.tile.begin, count = keys.end - keys.begin;
    WithBlockRows(o.block.rows, [&](auto rows) HWY_ATTR {
      for (int64_t v = 0; v < vectors; v += 2) {
        const float* values = o.values + v * lanes * o.tile.key_tile;
        float* out = o.out + v * lanes;
        if (v + 2 <= vectors) {
          ValuePanel<rows, 2>(weights + first, values + first * 2 * lanes, count, rescale, out,
                              o.stride);
        } else {
          ValuePanel<rows, 1>(weights + first, values + first * lanes, count, rescale, out,
                              o.stride);
        }
      }
    });
  }

  // Values that packing replaces by zero.
  static bool IsLeftOut(float value) { return IsSpecial(value); }

  // Column c of a row of weights.
  static float Weight(const float* row, int64_t c) { return row[c]; }
};

// Values that packing left out, NaN and infinity above all: 0 * NaN is NaN, and rows of a block see
// different keys. Here they join the rows that see them.
template <class Math>
HWY_NOINLINE HWY_ATTR void AddLeftOutValues(const BlockOperands& o, KeyRange keys,
                                            const float* weights) {
  using T = typename Math::Storage;
  HWY_ALIGN float row[kMaxHeadDim];
  TokenWalk<T> walk = ValueWalk<T>(o.block.item->kv, o.block.kv_head);
  for (int64_t key = keys.begin; key < keys.end; ++key) {
    ConvertRow(walk.At(key), row, o.dv);
    int64_t left_out[kMaxHeadDim], count = 0;
    for (int64_t i = 0; i < o.dv; ++i) {
      if (Math::IsLeftOut(row[i])) left_out[count++] = i;
    }
    for (int64_t r = 0; count > 0 && r < o.block.rows; ++r) {
      if (!o.block.Sees(r, key)) continue;
      const float weight = Math::Weight(weights + r * kScoreStride, key - o.tile.begin);
      float* out = o.out + r * o.stride;
      for (int64_t i = 0; i < count; ++i) out[left_out[i]] += weight * row[left_out[i]];
    }
  }
}

// One block of rows against one packed tile.
template <class Math>
HWY_NOINLINE HWY_ATTR void BlockStep(const BlockOperands& o, float* score_buffer, float* max,
                                     float* sum) {
  const RowBlock& block = o.block;
  const KeyTile& tile = o.tile;
  const int64_t panel = 2 * FloatLanes();
  const KeyRange keys = Intersect(block.Hull(), tile.keys);
  if (keys.empty()) return;

  const ScoreBlock scores{score_buffer, tile.begin, (keys.begin - tile.begin) / panel * panel,
                          Math::ScoreColumns(keys.end - tile.begin)};
  Math::Scores(o, scores);
  ShapeAndMask(block, scores, /*masked=*/!block.AllSee(scores.Keys()));
  HWY_ALIGN float rescale[kMaxBlockRows];
  Math::Weigh(block, scores, max, sum, rescale);
  Math::AddValues(o, keys, score_buffer, rescale);
  if (tile.values_left_out) AddLeftOutValues<Math>(o, keys, score_buffer);
}

// Brings the next tile's rows into L2 a few at a time, in step with the blocks of the current one:
// packing would otherwise wait for memory.
template <class T>
class TileFetcher {
 public:
  TileFetcher(const TaskArgs& args, KeyRange keys, int64_t blocks)
      : k_walk_(KeyWalk<T>(args.item.kv, args.task.kv_head)),
        v_walk_(ValueWalk<T>(args.item.kv, args.task.kv_head)),
        dk_(args.params.key.head_dim_k),
        dv_(args.params.key.head_dim_v),
        keys_(keys),
        step_((keys.end - keys.begin + blocks - 1) / blocks) {}

  void Step() {
    for (int64_t end = std::min(keys_.begin + step_, keys_.end); keys_.begin < end; ++keys_.begin) {
      PrefetchRow<kIntoL2>(k_walk_.At(keys_.begin), dk_);
      PrefetchRow<kIntoL2>(v_walk_.At(keys_.begin), dv_);
    }
  }

 private:
  TokenWalk<T> k_walk_, v_walk_;
  int64_t dk_, dv_;
  KeyRange keys_;  // still to be fetched
  int64_t step_;
};

template <class Math>
HWY_NOINLINE HWY_ATTR void AttendTile(const TaskArgs& args) {
  const AttentionTask& task = args.task;
  const KernelKey& key = args.params.key;
  const int64_t group = args.params.num_query_heads / args.params.num_kv_heads;
  const int64_t dk = key.head_dim_k, dv = key.head_dim_v;
  const int64_t stride = RoundUp(dv, kDimAlign);
  const Scratch scratch(args.scratch, args.shape, dk, dv);
  const int64_t rows = task.row_end - task.row_begin;
  const auto block_at = [&](int64_t row) {
    return RowBlock{&args.item, task.kv_head, group, task.row_begin + row,
                    std::min(Math::kRows, rows - row)};
  };
  const auto queries_at = [&](int64_t row) { return scratch.queries + row * Math::QueryElems(dk); };

  Math::Begin();
  bool queries_left_out = false;
  for (int64_t row = 0; row < rows; row += Math::kRows) {
    queries_left_out |= Math::PackBlock(block_at(row), key.q_dtype, dk, queries_at(row));
  }
  std::fill_n(scratch.out, RoundUp(rows, Math::kRows) * stride, 0.0f);
  std::fill_n(scratch.max, rows, kMinusInfinity);
  std::fill_n(scratch.sum, rows * kDimAlign, 0.0f);

  const int64_t key_tile = args.shape.key_tile;
  for (int64_t begin = task.keys.begin / key_tile * key_tile; begin < task.keys.end;
       begin += key_tile) {
    KeyTile tile{begin, Intersect(task.keys, {begin, begin + key_tile}), key_tile, false, false};
    const int64_t next = begin + key_tile;
    TileFetcher<typename Math::Storage> fetcher(args, Intersect(task.keys, {next, next + key_tile}),
                                                (rows + Math::kRows - 1) / Math::kRows);
    Math::PackTile(args, scratch.keys, scratch.values, tile);
    for (int64_t row = 0; row < rows; row += Math::kRows) {
      const RowBlock block = block_at(row);
      const BlockOperands operands{
          block,        tile,           queries_left_out,           dk,    dv, queries_at(row),
          scratch.keys, scratch.values, scratch.out + row * stride, stride};
      BlockStep<Math>(operands, scratch.scores, scratch.max + row, scratch.sum + row * kDimAlign);
      fetcher.Step();
    }
  }
  for (int64_t row = 0; row < rows; row += Math::kRows) {
    FinishRows(args, block_at(row), scratch.out + row * stride, stride, scratch.max + row,
               scratch.sum + row * kDimAlign);
  }
  Math::End();
}

}  // namespace HWY_NAMESPACE
}  // namespace attnd
HWY_AFTER_NAMESPACE();

#endif
