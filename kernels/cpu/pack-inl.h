// SPDX-License-Identifier: Apache-2.0
//
// From pages in storage order to the fp32 panels that the register kernel reads. K is transposed
// once a tile, V only converted. Columns of keys that are not asked for become zeros, so that
// nothing that lies in memory behind them can reach a result. Included once per Highway target.
#if defined(ATTND_KERNELS_CPU_PACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTND_KERNELS_CPU_PACK_INL_H_
#undef ATTND_KERNELS_CPU_PACK_INL_H_
#else
#define ATTND_KERNELS_CPU_PACK_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/cpu/convert-inl.h"
#include "kernels/cpu/gemm-inl.h"
#include "kernels/cpu/row_block.h"
#include "kernels/cpu/tile_shape.h"
#include "kernels/cpu/token_walk.h"

HWY_BEFORE_NAMESPACE();
namespace attnd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Rows fetched ahead of the one being packed: rows of a dense tensor lie too far apart, and pages
// in too random an order, for a hardware prefetcher to follow.
inline constexpr int64_t kPackAhead = 16;

// What is not finite, or would not be after rounding to bf16. The kernels that multiply packed
// tiles cannot leave such numbers to the arithmetic: packing replaces them, and they are seen to
// where they are needed.
inline constexpr float kSpecial = 0x1.ffp127f;
inline bool IsSpecial(float x) { return !(std::abs(x) < kSpecial); }

// Fetches the row kPackAhead behind `token`, where there is one.
template <class T>
HWY_INLINE HWY_ATTR void FetchAhead(TokenWalk<T>& walk, int64_t token, KeyRange keys, int64_t dim) {
  if (token + kPackAhead < keys.end) PrefetchRow(walk.At(token + kPackAhead), dim);
}

// Four key rows of `dk` elements become columns 0 .. 3 of panel[dk][panel_width].
template <class T>
HWY_INLINE HWY_ATTR void TransposeFour(const T* const (&rows)[4], int64_t dk, int64_t panel_width,
                                       float* HWY_RESTRICT panel) {
  const FloatTag d;
  const hn::FixedTag<float, 4> d4;
  const hn::Repartition<double, FloatTag> d64;
  const int64_t lanes = FloatLanes();
  HWY_ALIGN float turned[4][16];
  for (int64_t i = 0; i < dk; i += lanes) {
    const int64_t n = std::min(lanes, dk - i);
    FloatVec in[4];
    Unroll<4>([&](auto r) HWY_ATTR {
      in[r] = n == lanes ? LoadFloats(d, rows[r] + i) : LoadFloatsPart(d, rows[r] + i, n);
    });
    // A 4x4 transpose in each block of 128 bits.
    const auto lo01 = hn::BitCast(d64, hn::InterleaveLower(d, in[0], in[1]));
    const auto hi01 = hn::BitCast(d64, hn::InterleaveUpper(d, in[0], in[1]));
    const auto lo23 = hn::BitCast(d64, hn::InterleaveLower(d, in[2], in[3]));
    const auto hi23 = hn::BitCast(d64, hn::InterleaveUpper(d, in[2], in[3]));
    hn::Store(hn::BitCast(d, hn::InterleaveLower(d64, lo01, lo23)), d, turned[0]);
    hn::Store(hn::BitCast(d, hn::InterleaveUpper(d64, lo01, lo23)), d, turned[1]);
    hn::Store(hn::BitCast(d, hn::InterleaveLower(d64, hi01, hi23)), d, turned[2]);
    hn::Store(hn::BitCast(d, hn::InterleaveUpper(d64, hi01, hi23)), d, turned[3]);
    for (int64_t e = 0; e < n; ++e) {
      hn::Store(hn::Load(d4, turned[e % 4] + e / 4 * 4), d4, panel + (i + e) * panel_width);
    }
  }
}

// The keys in `keys` of a tile that begins at `tile_begin` become panels[tile / width][dk][width],
// in columns counted from tile_begin. Only whole groups of four columns that hold a key of `keys`
// are written.
template <class T>
HWY_NOINLINE HWY_ATTR void PackKeys(const AttentionItem& item, int64_t kv_head, int64_t dk,
                                    int64_t tile_begin, KeyRange keys, float* panels) {
  const int64_t width = 2 * FloatLanes();
  TokenWalk<T> walk = KeyWalk<T>(item.kv, kv_head), ahead = walk;
  const T zeros[kMaxHeadDim] = {};
  for (int64_t group = (keys.begin - tile_begin) / 4 * 4; group < keys.end - tile_begin;
       group += 4) {
    const T* rows[4];
    for (int64_t i = 0; i < 4; ++i) {
      const int64_t key = tile_begin + group + i;
      rows[i] = keys.Contains(key) ? walk.At(key) : zeros;
      FetchAhead(ahead, key, keys, dk);
    }
    TransposeFour(rows, dk, width, panels + group / width * width * dk + group % width);
  }
  // A panel is read to its end.
  const int64_t first = (keys.begin - tile_begin) / 4 * 4;
  const int64_t written = RoundUp(keys.end - tile_begin, 4);
  if (written % width != 0) {
    float* panel = panels + written / width * width * dk;
    for (int64_t i = 0; i < dk; ++i) {
      std::fill(panel + i * width + written % width, panel + (i + 1) * width, 0.0f);
    }
  }
  if (first % width != 0) {
    float* panel = panels + first / width * width * dk;
    for (int64_t i = 0; i < dk; ++i) std::fill_n(panel + i * width, first % width, 0.0f);
  }
}

// The values of `keys` become panels of up to two vectors, [head_dim_v / width][key_tile][width],
// in rows counted from tile_begin; special ones are left out. Returns whether there was one.
template <class T>
HWY_NOINLINE HWY_ATTR bool PackValues(const AttentionItem& item, int64_t kv_head, int64_t dv,
                                      int64_t tile_begin, KeyRange keys, int64_t key_tile,
                                      float* panels) {
  const FloatTag d;
  const int64_t lanes = FloatLanes();
  const int64_t vectors = (dv + lanes - 1) / lanes;
  const FloatVec bound = hn::Set(d, kSpecial);
  TokenWalk<T> walk = ValueWalk<T>(item.kv, kv_head), ahead = walk;
  auto all_usual = hn::Eq(bound, bound);
  for (int64_t key = keys.begin; key < keys.end; ++key) {
    const T* row = walk.At(key);
    FetchAhead(ahead, key, keys, dv);
    for (int64_t i = 0; i < vectors; ++i) {
      const int64_t n = std::min(lanes, dv - i * lanes);
      const FloatVec v =
          n == lanes ? LoadFloats(d, row + i * lanes) : LoadFloatsPart(d, row + i * lanes, n);
      const int64_t panel_vectors = std::min<int64_t>(2, vectors - i / 2 * 2);
      float* panel = panels + i / 2 * 2 * lanes * key_tile;
      const auto usual = hn::Lt(hn::Abs(v), bound);
      all_usual = hn::And(all_usual, usual);
      hn::Store(hn::IfThenElseZero(usual, v), d,
                panel + ((key - tile_begin) * panel_vectors + i % 2) * lanes);
    }
  }
  return !hn::AllTrue(d, all_usual);
}

// Rows of queries as [dk][kBlockRows] for the tile kernel. Rows that a block lacks are zeros; their
// scores are never looked at.
template <class T>
HWY_NOINLINE HWY_ATTR void PackQueries(const RowBlock& block, int64_t dk, float* panel) {
  const T* const queries = static_cast<const T*>(block.item->q.data);
  if constexpr (kBlockRows % 4 == 0) {
    const T zeros[kMaxHeadDim] = {};
    for (int64_t r = 0; r < kBlockRows; r += 4) {
      const T* rows[4];
      for (int64_t i = 0; i < 4; ++i) {
        rows[i] = r + i < block.rows ? queries + block.QueryOffset(r + i) : zeros;
      }
      TransposeFour(rows, dk, kBlockRows, panel + r);
    }
  } else {
    HWY_ALIGN float row[kMaxHeadDim];
    if (block.rows < kBlockRows) std::fill_n(panel, dk * kBlockRows, 0.0f);
    for (int64_t r = 0; r < block.rows; ++r) {
      ConvertRow(queries + block.QueryOffset(r), row, dk);
      for (int64_t i = 0; i < dk; ++i) panel[i * kBlockRows + r] = row[i];
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace attnd
HWY_AFTER_NAMESPACE();

#endif
