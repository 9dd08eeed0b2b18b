// SPDX-License-Identifier: Apache-2.0
//
// The Math of the tile kernel on AMX, for queries and KV of any type: tiles of 16 rows by 32 bf16
// times 32 bf16 by 16 columns, in as many parts as the types need. The instructions take denormals
// of bf16 and of their sums for zeros. Included once per Highway target, empty but on AVX-512.
#if defined(ATTND_KERNELS_CPU_AMX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTND_KERNELS_CPU_AMX_INL_H_
#undef ATTND_KERNELS_CPU_AMX_INL_H_
#else
#define ATTND_KERNELS_CPU_AMX_INL_H_
#endif

#include "kernels/cpu/bf16_unit.h"
#include "kernels/cpu/pairs-inl.h"

#if ATTND_TARGET_AVX512

// On top of the target's instruction set. What is called from the target's own code must not be
// inlined into it.
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",amx-tile,amx-bf16")
namespace attnd {
namespace HWY_NAMESPACE {

// A matrix of pairs in parts, cut into tiles along its depth; in floats.
struct TileOperand {
  const float* data;
  int64_t stride;  // from row to row of a tile
  int64_t part;    // from part to part
  int64_t step;    // from tile to tile
};

// A block is 32 rows by 32 columns, in four accumulator tiles (0 to 3), from two tiles of rows (4,
// 5) and two of columns (6, 7). Blocks of up to 16 rows leave out tiles 2, 3 and 5.
template <class Query, class Key>
struct TileMath : PairMath<Query, Key> {
  using Base = PairMath<Query, Key>;
  using Base::kChecked;
  static constexpr int64_t kRows = 32;
  static constexpr int kQueryParts = Base::kQueryParts, kKeyParts = Base::kKeyParts;

  HWY_NOINLINE static void Begin() { _tile_loadconfig(&kTileConfig); }
  HWY_NOINLINE static void End() { _tile_release(); }

  // [kRows][parts][pairs], zeros where a block lacks rows.
  HWY_NOINLINE static bool PackBlock(const RowBlock& block, DType, int64_t dk, float* queries) {
    const int64_t row_elems = Base::QueryElems(dk);
    const auto* q = static_cast<const Query*>(block.item->q.data);
    bool left_out = false;
    for (int64_t r = 0; r < block.rows; ++r) {
      left_out |= SplitRow<Query, kChecked>(q + block.QueryOffset(r), dk, queries + r * row_elems);
    }
    std::fill(queries + block.rows * row_elems, queries + kRows * row_elems, 0.0f);
    return left_out;
  }

  HWY_NOINLINE static void Scores(const BlockOperands& o, const ScoreBlock& s) {
    const int64_t depth = PaddedPairs(o.dk);
    const TileOperand q{o.queries, Base::QueryElems(o.dk), depth, kTilePairs};
    Fence();
    for (int64_t c = s.begin; c < s.end; c += kPanel) {
      const TileOperand k{o.keys + c * kKeyParts * depth, kPanel, depth * kPanel,
                          kTilePairs * kPanel};
      Multiply(o.block.rows > 16, true, q, k, depth, kScoreOrder, s.scores + c, kScoreStride);
    }
    Fence();
    if (o.queries_left_out || o.tile.keys_left_out) LeftOutScores<Query, Key>(o, s);
  }

  HWY_NOINLINE static void AddValues(const BlockOperands& o, KeyRange keys, const float* weights,
                                     const float* rescale) {
    alignas(64) float product[kRows * kPanel];
    Base::ForValuePanels(
        o, keys, weights,
        [&](int64_t v, const float* w, const float* values, int64_t part, int64_t pairs,
            int64_t vectors) {
          const int64_t width = vectors * 16;
          const TileOperand a{w, kScoreStride, kTilePairs, kQueryParts * kTilePairs};
          const TileOperand b{values, width, part, kTilePairs * width};
          Fence();
          Multiply(o.block.rows > 16, vectors == 2, a, b, pairs, kValueOrder, product, kPanel);
          Fence();
          AddProduct(product, o.block.rows, vectors, rescale, o.out + v * 16, o.stride);
        });
  }

 private:
  // The highest order of products that count. Without orders from 3 on 2^-26 of a product is lost,
  // from 2 on 2^-18: too much for scores, whose errors are absolute in an exponent, and for fp32
  // outputs, which have the type of queries. With outputs in bf16, 2^-9 is lost already.
  static constexpr int kHighestOrder = kQueryParts + kKeyParts - 2;
  static constexpr int kScoreOrder = std::min(2, kHighestOrder);
  static constexpr int kValueOrder = std::min(std::max(kQueryParts - 1, 1), kHighestOrder);

  // The compiler does not know what memory tile instructions touch.
  HWY_INLINE static void Fence() { asm volatile("" ::: "memory"); }

  // c = a . b: [16 or 32 rows][16 or 32 columns], `depth` pairs deep, a multiple of 16. Part i of
  // a with part j of b is a product of order i + j: 2^-9 times smaller with each order. Small ones
  // are summed first, so that they do not add to the rounding error of large ones; those above
  // the highest order are left out.
  HWY_INLINE static void Multiply(bool all_rows, bool all_columns, const TileOperand& a,
                                  const TileOperand& b, int64_t depth, int highest_order, float* c,
                                  int64_t c_stride) {
    const auto c_bytes = static_cast<size_t>(c_stride) * 4;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int order = highest_order; order >= 0; --order) {
      for (int i = 0; i < kQueryParts; ++i) {
        const int j = order - i;
        if (j < 0 || j >= kKeyParts) continue;
        AddProducts(all_rows, all_columns, a, a.data + i * a.part, b, b.data + j * b.part,
                    depth / kTilePairs);
      }
    }
    _tile_stored(0, c, c_bytes);
    if (all_columns) _tile_stored(1, c + 16, c_bytes);
    if (all_rows) {
      _tile_stored(2, c + 16 * c_stride, c_bytes);
      if (all_columns) _tile_stored(3, c + 16 * c_stride + 16, c_bytes);
    }
  }

  // One part of each: `steps` tiles along the depth. Columns pass by once a block: they are not to
  // displace the rest in L1.
  HWY_INLINE static void AddProducts(bool all_rows, bool all_columns, const TileOperand& a,
                                     const float* a_tile, const TileOperand& b, const float* b_tile,
                                     int64_t steps) {
    const auto a_bytes = static_cast<size_t>(a.stride) * 4;
    const auto b_bytes = static_cast<size_t>(b.stride) * 4;
    for (int64_t t = 0; t < steps; ++t, a_tile += a.step, b_tile += b.step) {
      _tile_loadd(4, a_tile, a_bytes);
      _tile_stream_loadd(6, b_tile, b_bytes);
      _tile_dpbf16ps(0, 4, 6);
      if (all_columns) {
        _tile_stream_loadd(7, b_tile + 16, b_bytes);
        _tile_dpbf16ps(1, 4, 7);
      }
      if (all_rows) {
        _tile_loadd(5, a_tile + 16 * a.stride, a_bytes);
        _tile_dpbf16ps(2, 5, 6);
        if (all_columns) _tile_dpbf16ps(3, 5, 7);
      }
    }
  }

  // out = out * rescale + product, [rows][vectors].
  HWY_INLINE static void AddProduct(const float* product, int64_t rows, int64_t vectors,
                                    const float* rescale, float* out, int64_t stride) {
    for (int64_t r = 0; r < rows; ++r) {
      const __m512 scale = _mm512_set1_ps(rescale[r]);
      float* row = out + r * stride;
      for (int64_t i = 0; i < vectors * 16; i += 16) {
        const __m512 p = _mm512_load_ps(product + r * kPanel + i);
        _mm512_store_ps(row + i, _mm512_fmadd_ps(_mm512_load_ps(row + i), scale, p));
      }
    }
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace attnd
HWY_POP_ATTRIBUTES
#endif  // ATTND_TARGET_AVX512

#endif
