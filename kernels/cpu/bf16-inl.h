// SPDX-License-Identifier: Apache-2.0
//
// The Maths of the tile kernel that multiply bf16 by bf16 into fp32, with AVX512-BF16 and with AMX.
// Products of two bf16 are exact in fp32, so scores are as good as those of FloatMath; weights are
// rounded to bf16 before they meet the values, as in every flash kernel. Both instructions take
// denormals for zeros.
//
// Two neighbours along the sum share 32 bits, a pair: what FloatMath has as [head_dim] is
// [head_dim / 2] pairs here, and the packing in between moves pairs as if they were floats.
// Included once per Highway target, empty but on AVX-512.
#if defined(ATTND_KERNELS_CPU_BF16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTND_KERNELS_CPU_BF16_INL_H_
#undef ATTND_KERNELS_CPU_BF16_INL_H_
#else
#define ATTND_KERNELS_CPU_BF16_INL_H_
#endif

#include "hwy/highway.h"
#include "kernels/cpu/bf16_unit.h"
#include "kernels/cpu/tile-inl.h"

#undef ATTND_HAVE_BF16
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
#define ATTND_HAVE_BF16 1
#else
#define ATTND_HAVE_BF16 0
#endif

#if ATTND_HAVE_BF16
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

// The instruction sets on top of the target's. What is called from the target's own code must not
// be inlined into it.
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512bf16,amx-tile,amx-bf16")
namespace attnd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr int64_t kPanel = 32;      // columns of a panel of K, and of two vectors of V
inline constexpr int64_t kTilePairs = 16;  // pairs in a row of an AMX tile

// Pairs of a row of K, and how many of them a panel has: AMX takes them 16 at a time.
HWY_INLINE int64_t Pairs(int64_t elems) { return elems / 2; }
HWY_INLINE int64_t PaddedPairs(int64_t elems) { return RoundUp(elems, 2 * kTilePairs) / 2; }

// Values of `keys` become panels of up to two vectors, [head_dim_v / panel][key_tile / 2][panel]
// pairs: keys 2j and 2j + 1 of the tile. Keys outside `keys` are zeros, up to multiples of 32.
inline HWY_NOINLINE void PackValuePairs(const AttentionItem& item, int64_t kv_head, int64_t dv,
                                        int64_t tile_begin, KeyRange keys, int64_t key_tile,
                                        float* panels) {
  const int64_t lanes = FloatLanes(), vectors = (dv + lanes - 1) / lanes;
  TokenWalk<BFloat16> walk = ValueWalk<BFloat16>(item.kv, kv_head), ahead = walk;
  const BFloat16 zeros[kMaxHeadDim] = {};
  const int64_t end = tile_begin + RoundUp(keys.end - tile_begin, kPanel);
  for (int64_t key = tile_begin + (keys.begin - tile_begin) / kPanel * kPanel; key < end;
       key += 2) {
    const BFloat16* rows[2];
    for (int64_t i = 0; i < 2; ++i) {
      rows[i] = keys.Contains(key + i) ? walk.At(key + i) : zeros;
      FetchAhead(ahead, key + i, keys, dv);
    }
    for (int64_t v = 0; v < vectors; ++v) {
      const int64_t n = std::min(lanes, dv - v * lanes);
      const auto mask = static_cast<__mmask16>((1u << n) - 1);
      const __m256i low = _mm256_maskz_loadu_epi16(mask, rows[0] + v * lanes);
      const __m256i high = _mm256_maskz_loadu_epi16(mask, rows[1] + v * lanes);
      const __m512i pairs = _mm512_or_si512(_mm512_cvtepu16_epi32(low),
                                            _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
      const int64_t width = std::min<int64_t>(2, vectors - v / 2 * 2) * lanes;
      float* panel = panels + v / 2 * kPanel * (key_tile / 2);
      _mm512_store_si512(panel + (key - tile_begin) / 2 * width + v % 2 * lanes, pairs);
    }
  }
}

// Weights come to lie in the first half of each row of scores.
inline HWY_NOINLINE void ScoresToBf16Weights(int64_t rows, const ScoreBlock& s, float factor,
                                             float* max, float* sum, float* rescale) {
  const FloatTag d;
  const int64_t lanes = FloatLanes();
  float shift[kMaxBlockRows];
  RaiseMax<false>(rows, s, factor, max, shift, rescale);
  const FloatVec vfactor = hn::Set(d, factor);
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = s.scores + r * kScoreStride;
    auto* weights = reinterpret_cast<__m256i*>(s.scores + r * kScoreStride);
    const FloatVec vshift = hn::Set(d, shift[r] - kExp2Bias);
    FloatVec total = hn::Zero(d);
    for (int64_t c = s.begin; c < s.end; c += lanes) {
      const FloatVec w = WeightsOf(hn::Load(d, row + c), vfactor, vshift);
      total = hn::Add(total, w);
      const __m256bh rounded = _mm512_cvtneps_pbh(w.raw);
      __m256i bits;
      std::memcpy(&bits, &rounded, sizeof(bits));
      _mm256_storeu_si256(weights + c / lanes, bits);
    }
    AddToSum(total, rescale[r], sum + r * kDimAlign);
  }
}

HWY_INLINE __m512 DotPairs(__m512 sum, float a_pair, __m512 b_pairs) {
  const __m512 a = _mm512_set1_ps(a_pair);
  __m512bh x, y;
  std::memcpy(&x, &a, sizeof(x));
  std::memcpy(&y, &b_pairs, sizeof(y));
  return _mm512_dpbf16_ps(sum, x, y);
}

// As MultiplyAccumulate of gemm-inl.h, with pairs for floats.
template <int kRows, int kVecs, int64_t kRowStride, int64_t kStep>
HWY_INLINE void DotAccumulate(const float* a, const float* b, int64_t b_step, int64_t depth,
                              __m512 (&sum)[kRows][kVecs]) {
  for (int64_t t = 0; t < depth; ++t) {
    __m512 column[kVecs];
    Unroll<kVecs>([&](auto c) { column[c] = _mm512_load_ps(b + c * 16); });
    Unroll<kRows>([&](auto r) {
      Unroll<kVecs>([&](auto c) { sum[r][c] = DotPairs(sum[r][c], a[r * kRowStride], column[c]); });
    });
    a += kStep;
    b += b_step;
  }
}

template <int kRows, int kVecs>
HWY_INLINE void ClearSums(__m512 (&sum)[kRows][kVecs]) {
  Unroll<kRows>([&](auto r) { Unroll<kVecs>([&](auto c) { sum[r][c] = _mm512_setzero_ps(); }); });
}

// What both units share.
struct PairMath {
  using Storage = BFloat16;

  static int64_t QueryElems(int64_t dk) { return PaddedPairs(dk); }
  static int64_t ScoreColumns(int64_t keys) { return RoundUp(keys, kPanel); }

  static void PackTile(const TaskArgs& args, const KeyTile& tile, float* keys, float* values) {
    const int64_t dk = args.params.key.head_dim_k, dv = args.params.key.head_dim_v;
    PackKeys<BFloat16, float>(args.item, args.task.kv_head, Pairs(dk), PaddedPairs(dk), tile.begin,
                              tile.keys, keys);
    PackValuePairs(args.item, args.task.kv_head, dv, tile.begin, tile.keys, tile.key_tile, values);
  }
  static void Weigh(const RowBlock& block, const ScoreBlock& s, float* max, float* sum,
                    float* rescale) {
    ScoresToBf16Weights(block.rows, s, SoftmaxFactor(block.item->options), max, sum, rescale);
  }

  // f(panel, weights from key `first` on, values of the same keys, pairs of keys, vectors) for each
  // panel; `keys` rounded to multiples of 32 keys of the tile.
  template <class F>
  HWY_INLINE static void ForValuePanels(const BlockOperands& o, KeyRange keys, const float* weights,
                                        F&& f) {
    const int64_t vectors = (o.dv + 15) / 16;
    const int64_t first = (keys.begin - o.tile.begin) / kPanel * kPanel / 2;
    const int64_t pairs = RoundUp(keys.end - o.tile.begin, kPanel) / 2 - first;
    for (int64_t v = 0; v < vectors; v += 2) {
      const int64_t width = std::min<int64_t>(2, vectors - v) * 16;
      const float* values = o.values + v * 16 * (o.tile.key_tile / 2) + first * width;
      f(v, weights + first, values, pairs, width / 16);
    }
  }

  HWY_NOINLINE static bool ValuesFinite(const BlockOperands& o) {
    const __m512i high = _mm512_set1_epi32(0x7f800000), low = _mm512_set1_epi32(0x7f80);
    __mmask16 special = 0;
    ForValuePanels(o, o.tile.keys, nullptr,
                   [&](int64_t, const float*, const float* values, int64_t pairs, int64_t vectors) {
                     for (int64_t i = 0; i < pairs * vectors; ++i) {
                       const __m512i x = _mm512_load_si512(values + i * 16);
                       special |= _mm512_cmpeq_epi32_mask(_mm512_and_si512(x, high), high);
                       special |= _mm512_cmpeq_epi32_mask(_mm512_and_si512(x, low), low);
                     }
                   });
    return special == 0;
  }

  HWY_NOINLINE static void SelectValues(const BlockOperands& o, KeyRange keys, const float* weights,
                                        const float* rescale) {
    for (int64_t r = 0; r < o.block.rows; ++r) {
      const auto* row = reinterpret_cast<const uint16_t*>(weights + r * kScoreStride);
      for (int64_t v = 0; v * 16 < o.dv; ++v) {
        const int64_t vectors = (o.dv + 15) / 16;
        const int64_t width = std::min<int64_t>(2, vectors - v / 2 * 2) * 16;
        const float* column = o.values + v / 2 * kPanel * (o.tile.key_tile / 2) + v % 2 * 16;
        __m512 sum = _mm512_setzero_ps();
        for (int64_t key = keys.begin; key < keys.end; ++key) {
          if (!o.block.Sees(r, key)) continue;
          const int64_t c = key - o.tile.begin;
          const __m512i pairs = _mm512_load_si512(column + c / 2 * width);
          const __m512i bits = c % 2 == 0 ? _mm512_slli_epi32(pairs, 16)
                                          : _mm512_and_si512(pairs, _mm512_set1_epi32(-0x10000));
          const __m512i weight = _mm512_set1_epi32(static_cast<int>(uint32_t{row[c]} << 16));
          sum = _mm512_fmadd_ps(_mm512_castsi512_ps(weight), _mm512_castsi512_ps(bits), sum);
        }
        float* to = o.out + r * o.stride + v * 16;
        _mm512_store_ps(to, _mm512_fmadd_ps(_mm512_load_ps(to), _mm512_set1_ps(rescale[r]), sum));
      }
    }
  }
};

// AVX512-BF16: the register kernel of FloatMath, on pairs.
struct DotMath : PairMath {
  static constexpr int64_t kRows = kBlockRows;

  static void Begin() {}
  static void End() {}

  static void PackBlock(const RowBlock& block, DType, int64_t dk, float* queries) {
    PackQueries<BFloat16, float>(block, Pairs(dk), queries);
  }

  HWY_NOINLINE static void Scores(const BlockOperands& o, const ScoreBlock& s) {
    const int64_t pairs = Pairs(o.dk), depth = PaddedPairs(o.dk);
    WithBlockRows(o.block.rows, [&](auto rows) {
      for (int64_t c = s.begin; c < s.end; c += kPanel) {
        ScoreBlockRows<rows>(o.queries, o.keys + c * depth, pairs, s.scores + c);
      }
    });
  }

  HWY_NOINLINE static void AddValues(const BlockOperands& o, KeyRange keys, const float* weights,
                                     const float* rescale) {
    ForValuePanels(
        o, keys, weights,
        [&](int64_t v, const float* w, const float* values, int64_t pairs, int64_t vectors) {
          float* out = o.out + v * 16;
          WithBlockRows(o.block.rows, [&](auto rows) {
            if (vectors == 2) {
              ValueBlockRows<rows, 2>(w, values, pairs, rescale, out, o.stride);
            } else {
              ValueBlockRows<rows, 1>(w, values, pairs, rescale, out, o.stride);
            }
          });
        });
  }

 private:
  template <int kBlock>
  HWY_INLINE static void ScoreBlockRows(const float* q, const float* k, int64_t pairs,
                                        float* scores) {
    __m512 sum[kBlock][2];
    ClearSums(sum);
    DotAccumulate<kBlock, 2, 1, kRows>(q, k, kPanel, pairs, sum);
    Unroll<kBlock>([&](auto r) {
      Unroll<2>([&](auto c) { _mm512_store_ps(scores + r * kScoreStride + c * 16, sum[r][c]); });
    });
  }

  template <int kBlock, int kVecs>
  HWY_INLINE static void ValueBlockRows(const float* w, const float* v, int64_t pairs,
                                        const float* rescale, float* out, int64_t stride) {
    __m512 sum[kBlock][kVecs];
    ClearSums(sum);
    DotAccumulate<kBlock, kVecs, kScoreStride, 1>(w, v, kVecs * 16, pairs, sum);
    Unroll<kBlock>([&](auto r) {
      const __m512 scale = _mm512_set1_ps(rescale[r]);
      Unroll<kVecs>([&](auto c) {
        float* o = out + r * stride + c * 16;
        _mm512_store_ps(o, _mm512_fmadd_ps(_mm512_load_ps(o), scale, sum[r][c]));
      });
    });
  }
};

// AMX: 32 rows by 32 columns are four accumulator tiles (0 to 3) from two tiles of rows (4, 5) and
// two of columns (6, 7). Blocks of up to 16 rows leave out tiles 2, 3 and 5.
struct TileMath : PairMath {
  static constexpr int64_t kRows = 32;

  HWY_NOINLINE static void Begin() { _tile_loadconfig(&kTileConfig); }
  HWY_NOINLINE static void End() { _tile_release(); }

  // Row by row, as they are, zeros behind them.
  HWY_NOINLINE static void PackBlock(const RowBlock& block, DType, int64_t dk, float* queries) {
    const int64_t pairs = PaddedPairs(dk);
    const auto* q = static_cast<const BFloat16*>(block.item->q.data);
    const auto bytes = static_cast<size_t>(dk) * sizeof(BFloat16);
    for (int64_t r = 0; r < kRows; ++r) {
      auto* row = reinterpret_cast<std::byte*>(queries + r * pairs);
      const size_t copied = r < block.rows ? bytes : 0;
      if (copied > 0) std::memcpy(row, q + block.QueryOffset(r), copied);
      std::memset(row + copied, 0, static_cast<size_t>(pairs) * 4 - copied);
    }
  }

  HWY_NOINLINE static void Scores(const BlockOperands& o, const ScoreBlock& s) {
    const int64_t depth = PaddedPairs(o.dk);
    Fence();
    for (int64_t c = s.begin; c < s.end; c += kPanel) {
      Multiply(o.block.rows > 16, true, o.queries, depth, o.keys + c * depth, kPanel, depth,
               s.scores + c, kScoreStride);
    }
    Fence();
  }

  HWY_NOINLINE static void AddValues(const BlockOperands& o, KeyRange keys, const float* weights,
                                     const float* rescale) {
    alignas(64) float product[kRows * kPanel];
    ForValuePanels(
        o, keys, weights,
        [&](int64_t v, const float* w, const float* values, int64_t pairs, int64_t vectors) {
          Fence();
          Multiply(o.block.rows > 16, vectors == 2, w, kScoreStride, values, vectors * 16, pairs,
                   product, kPanel);
          Fence();
          for (int64_t r = 0; r < o.block.rows; ++r) {
            const __m512 scale = _mm512_set1_ps(rescale[r]);
            float* out = o.out + r * o.stride + v * 16;
            for (int64_t i = 0; i < vectors * 16; i += 16) {
              const __m512 p = _mm512_load_ps(product + r * kPanel + i);
              _mm512_store_ps(out + i, _mm512_fmadd_ps(_mm512_load_ps(out + i), scale, p));
            }
          }
        });
  }

 private:
  // The compiler does not know what memory tile instructions touch.
  HWY_INLINE static void Fence() { asm volatile("" ::: "memory"); }

  // c = a . b: a [16 or 32 rows][depth] pairs, b [depth][16 or 32 columns] pairs, strides in pairs
  // and floats; depth a multiple of 16.
  HWY_INLINE static void Multiply(bool all_rows, bool all_columns, const float* a, int64_t a_stride,
                                  const float* b, int64_t b_stride, int64_t depth, float* c,
                                  int64_t c_stride) {
    const auto a_bytes = static_cast<size_t>(a_stride) * 4;
    const auto b_bytes = static_cast<size_t>(b_stride) * 4;
    const auto c_bytes = static_cast<size_t>(c_stride) * 4;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t t = 0; t < depth; t += kTilePairs) {
      _tile_loadd(4, a + t, a_bytes);
      _tile_loadd(6, b + t * b_stride, b_bytes);
      _tile_dpbf16ps(0, 4, 6);
      if (all_columns) {
        _tile_loadd(7, b + t * b_stride + 16, b_bytes);
        _tile_dpbf16ps(1, 4, 7);
      }
      if (all_rows) {
        _tile_loadd(5, a + 16 * a_stride + t, a_bytes);
        _tile_dpbf16ps(2, 5, 6);
        if (all_columns) _tile_dpbf16ps(3, 5, 7);
      }
    }
    _tile_stored(0, c, c_bytes);
    if (all_columns) _tile_stored(1, c + 16, c_bytes);
    if (all_rows) {
      _tile_stored(2, c + 16 * c_stride, c_bytes);
      if (all_columns) _tile_stored(3, c + 16 * c_stride + 16, c_bytes);
    }
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace attnd
HWY_POP_ATTRIBUTES
#endif  // ATTND_HAVE_BF16

#endif
