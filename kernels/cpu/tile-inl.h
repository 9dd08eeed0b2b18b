// SPDX-License-Identifier: Apache-2.0
//
// The tile kernel: many rows of one KV head, blocked. For each tile of keys, K and V are packed
// once and stay in L2; each block of rows then goes through scores, softmax and values while its
// scores stay in L1. Tiles that no row sees are skipped, only those at an edge are masked. Included
// once per Highway target.
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
  int64_t begin;      // position of column 0
  KeyRange keys;      // what is packed of it
  int64_t key_tile;   // rows of a value panel
  bool finite_known;  // whether values_finite was looked up
  bool values_finite;
};

HWY_INLINE KeyRange Intersect(KeyRange a, KeyRange b) {
  const KeyRange both{std::max(a.begin, b.begin), std::min(a.end, b.end)};
  return both.empty() ? KeyRange{0, 0} : both;
}

// The register kernels for a block of few or many rows, rounded up to thirds of a full block.
template <class F>
HWY_INLINE HWY_ATTR void WithBlockRows(int64_t rows, F&& f) {
  constexpr int kThird = kBlockRows / 3;
  if (rows > 2 * kThird) return f(std::integral_constant<int, kBlockRows>{});
  if (rows > kThird) return f(std::integral_constant<int, 2 * kThird>{});
  return f(std::integral_constant<int, kThird>{});
}

// Looks through the packed values for NaN and infinity.
inline HWY_NOINLINE HWY_ATTR bool ValuesFinite(const KeyTile& tile, int64_t dv,
                                               const float* values) {
  const FloatTag d;
  const int64_t lanes = FloatLanes(), vectors = (dv + lanes - 1) / lanes;
  FloatVec poison = hn::Zero(d);  // 0 * x is NaN unless x is finite
  for (int64_t panel = 0; panel < vectors; panel += 2) {
    const int64_t width = std::min<int64_t>(2, vectors - panel) * lanes;
    const float* rows = values + panel * lanes * tile.key_tile;
    for (int64_t i = (tile.keys.begin - tile.begin) * width;
         i < (tile.keys.end - tile.begin) * width; i += lanes) {
      poison = hn::MulAdd(hn::Load(d, rows + i), hn::Zero(d), poison);
    }
  }
  return hn::AllTrue(d, hn::Eq(poison, hn::Zero(d)));
}

// The values' product where a masked tile holds NaN or infinity: a weight of zero would not keep
// them out, so keys that a row does not see are left out of its sum.
inline HWY_NOINLINE HWY_ATTR void SelectValues(const RowBlock& block, const KeyTile& tile,
                                               KeyRange keys, int64_t dv, const float* weights,
                                               const float* values, const float* rescale,
                                               float* out, int64_t stride) {
  const FloatTag d;
  const int64_t lanes = FloatLanes(), vectors = (dv + lanes - 1) / lanes;
  for (int64_t r = 0; r < block.rows; ++r) {
    for (int64_t v = 0; v < vectors; ++v) {
      const int64_t width = std::min<int64_t>(2, vectors - v / 2 * 2) * lanes;
      const float* column = values + v / 2 * 2 * lanes * tile.key_tile + v % 2 * lanes;
      FloatVec sum = hn::Zero(d);
      for (int64_t key = keys.begin; key < keys.end; ++key) {
        if (!block.Sees(r, key)) continue;
        const int64_t c = key - tile.begin;
        sum = hn::MulAdd(hn::Set(d, weights[r * kScoreStride + c]), hn::Load(d, column + c * width),
                         sum);
      }
      float* o = out + r * stride + v * lanes;
      hn::Store(hn::MulAdd(hn::Load(d, o), hn::Set(d, rescale[r]), sum), d, o);
    }
  }
}

// One block of rows against one packed tile.
inline HWY_NOINLINE HWY_ATTR void BlockStep(const TaskArgs& args, const Scratch& scratch,
                                            const RowBlock& block, KeyTile& tile,
                                            const float* queries, float* out, float* max,
                                            float* sum) {
  const int64_t lanes = FloatLanes(), panel = 2 * lanes;
  const int64_t dk = args.params.key.head_dim_k, dv = args.params.key.head_dim_v;
  const int64_t stride = RoundUp(dv, kDimAlign);
  const KeyRange keys = Intersect(block.Hull(), tile.keys);
  if (keys.empty()) return;

  const ScoreBlock scores{scratch.scores, tile.begin, (keys.begin - tile.begin) / panel * panel,
                          RoundUp(keys.end - tile.begin, lanes)};
  WithBlockRows(block.rows, [&](auto rows) HWY_ATTR {
    int64_t c = scores.begin;
    for (; c + panel <= scores.end; c += panel) {
      ScorePanel<rows, 2>(queries, scratch.keys + c * dk, dk, scores.scores + c);
    }
    if (c < scores.end) {
      ScorePanel<rows, 1>(queries, scratch.keys + c * dk, dk, scores.scores + c);
    }
  });

  const bool masked = !block.AllSee(scores.Keys());
  HWY_ALIGN float rescale[kDimAlign];
  ScoresToWeights(block, scores, masked, max, sum, rescale);

  const bool uneven = masked && !block.AllSee(keys);
  if (uneven && !tile.finite_known) {
    tile.values_finite = ValuesFinite(tile, dv, scratch.values);
    tile.finite_known = true;
  }
  if (uneven && !tile.values_finite) {
    SelectValues(block, tile, keys, dv, scores.scores, scratch.values, rescale, out, stride);
    return;
  }
  const int64_t first = keys.begin - tile.begin, count = keys.end - keys.begin;
  const int64_t vectors = (dv + lanes - 1) / lanes;
  WithBlockRows(block.rows, [&](auto rows) HWY_ATTR {
    for (int64_t v = 0; v < vectors; v += 2) {
      const float* values = scratch.values + v * lanes * tile.key_tile;
      const float* weights = scores.scores + first;
      if (v + 2 <= vectors) {
        ValuePanel<rows, 2>(weights, values + first * panel, count, rescale, out + v * lanes,
                            stride);
      } else {
        ValuePanel<rows, 1>(weights, values + first * lanes, count, rescale, out + v * lanes,
                            stride);
      }
    }
  });
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

template <class T>
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
                    std::min<int64_t>(kBlockRows, rows - row)};
  };
  const auto queries_at = [&](int64_t row) { return scratch.queries + row * dk; };

  for (int64_t row = 0; row < rows; row += kBlockRows) {
    DispatchElement(key.q_dtype, [&](auto element) HWY_ATTR {
      PackQueries<decltype(element)>(block_at(row), dk, queries_at(row));
    });
  }
  std::fill_n(scratch.out, RoundUp(rows, kBlockRows) * stride, 0.0f);
  std::fill_n(scratch.max, rows, kMinusInfinity);
  std::fill_n(scratch.sum, rows * kDimAlign, 0.0f);

  const int64_t key_tile = args.shape.key_tile;
  for (int64_t begin = task.keys.begin / key_tile * key_tile; begin < task.keys.end;
       begin += key_tile) {
    KeyTile tile{begin, Intersect(task.keys, {begin, begin + key_tile}), key_tile, false, true};
    const int64_t next = begin + key_tile;
    TileFetcher<T> fetcher(args, Intersect(task.keys, {next, next + key_tile}),
                           (rows + kBlockRows - 1) / kBlockRows);
    PackKeys<T>(args.item, task.kv_head, dk, begin, tile.keys, scratch.keys);
    PackValues<T>(args.item, task.kv_head, dv, begin, tile.keys, key_tile, scratch.values);
    for (int64_t row = 0; row < rows; row += kBlockRows) {
      BlockStep(args, scratch, block_at(row), tile, queries_at(row), scratch.out + row * stride,
                scratch.max + row, scratch.sum + row * kDimAlign);
      fetcher.Step();
    }
  }
  for (int64_t row = 0; row < rows; row += kBlockRows) {
    FinishRows(args, block_at(row), scratch.out + row * stride, stride, scratch.max + row,
               scratch.sum + row * kDimAlign);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace attnd
HWY_AFTER_NAMESPACE();

#endif
