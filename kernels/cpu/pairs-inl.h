// SPDX-License-Identifier: Apache-2.0
//
// Numbers as sums of bf16, and what the Maths share that multiply those: 8 bits of a mantissa a
// part, so bf16 is one part, fp16 two, fp32 three, exactly. A product of two numbers is the sum of
// the products of their parts, each exact in fp32; those too small to matter are left out. So fp32
// attention can run on units that multiply bf16 alone.
//
// Two terms of a sum share 32 bits, a pair: what FloatMath has as [head_dim] is [head_dim / 2]
// pairs here, and the packing in between moves pairs as if they were floats. In each 32 terms, pair
// i is terms i and i + 16. Included once per Highway target, empty but on AVX-512.
#if defined(ATTND_KERNELS_CPU_PAIRS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTND_KERNELS_CPU_PAIRS_INL_H_
#undef ATTND_KERNELS_CPU_PAIRS_INL_H_
#else
#define ATTND_KERNELS_CPU_PAIRS_INL_H_
#endif

#include "hwy/highway.h"
#include "kernels/cpu/avx512.h"
#include "kernels/cpu/tile-inl.h"

#if ATTND_TARGET_AVX512
#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

HWY_BEFORE_NAMESPACE();
namespace attnd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr int64_t kPanel = 32;      // columns of a panel of K, and of two vectors of V
inline constexpr int64_t kTilePairs = 16;  // pairs in a row of an AMX tile

// Pairs that a row of `elems` is packed into.
HWY_INLINE int64_t PaddedPairs(int64_t elems) { return RoundUp(elems, kPanel) / 2; }

template <class T>
inline constexpr int kPartsOf = std::is_same_v<T, float>  ? 3
                                : std::is_same_v<T, Half> ? 2
                                                          : 1;

HWY_INLINE HWY_ATTR __m512 LoadMasked(__mmask16 mask, const float* p) {
  return _mm512_maskz_loadu_ps(mask, p);
}
HWY_INLINE HWY_ATTR __m512 LoadMasked(__mmask16 mask, const Half* p) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p));
}
HWY_INLINE HWY_ATTR __m512 LoadMasked(__mmask16 mask, const BFloat16* p) {
  const __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

HWY_INLINE HWY_ATTR __mmask16 FirstLanes(int64_t n) {
  return static_cast<__mmask16>((1u << std::clamp<int64_t>(n, 0, 16)) - 1);
}

// Lanes that are NaN or whose magnitude is not below `bound`.
HWY_INLINE HWY_ATTR __mmask16 Beyond(__m512 v, float bound) {
  return _mm512_cmp_ps_mask(_mm512_abs_ps(v), _mm512_set1_ps(bound), _CMP_NLT_UQ);
}

// Queries and keys in more than one part stay below this: sums of their products stay finite, or
// one part's infinity could meet another's. And parts of a number below 2^-102 may be denormal,
// which the units take for zeros: beside larger numbers that would be felt.
inline constexpr float kHuge = 0x1p59f;

// Values of fp32 attention are not below this, for the same reason.
inline constexpr float kTiny = 0x1p-102f;

// Lanes of values that are to be left out.
template <bool kTinyToo>
HWY_INLINE HWY_ATTR __mmask16 LeftOut(__m512 v) {
  if (!kTinyToo) return Beyond(v, kSpecial);
  constexpr int kZeros = 0x06;
  const __m512i magnitude = _mm512_castps_si512(_mm512_abs_ps(v));
  const __m512i tiny = _mm512_castps_si512(_mm512_set1_ps(kTiny));
  const __m512i range = _mm512_sub_epi32(_mm512_castps_si512(_mm512_set1_ps(kSpecial)), tiny);
  const __mmask16 outside = _mm512_cmpge_epu32_mask(_mm512_sub_epi32(magnitude, tiny), range);
  return static_cast<__mmask16>(outside & ~_mm512_fpclass_ps_mask(v, kZeros));
}

// What rounding to bf16 leaves of v, `rounded` being v's bits plus half a unit of bf16.
HWY_INLINE HWY_ATTR __m512 Residual(__m512 v, __m512i rounded) {
  const __m512i high = _mm512_set1_epi32(-0x10000);
  return _mm512_sub_ps(v, _mm512_castsi512_ps(_mm512_and_si512(rounded, high)));
}

// Part p of lanes a and b, paired, goes to `to` + p * stride. Rounded to the nearest, ties away
// from zero.
template <int kParts>
HWY_INLINE HWY_ATTR void SplitPairs(__m512 a, __m512 b, float* to, int64_t stride) {
  const __m512i half_unit = _mm512_set1_epi32(0x8000), high = _mm512_set1_epi32(-0x10000);
  Unroll<kParts>([&](auto part) HWY_ATTR {
    const __m512i x = _mm512_add_epi32(_mm512_castps_si512(a), half_unit);
    const __m512i y = _mm512_add_epi32(_mm512_castps_si512(b), half_unit);
    constexpr int kFirstOrSecondAndThird = 0xf8;
    const __m512i pairs =
        _mm512_ternarylogic_epi32(_mm512_srli_epi32(x, 16), y, high, kFirstOrSecondAndThird);
    _mm512_store_si512(to + part * stride, pairs);
    if constexpr (part + 1 < kParts) {
      a = Residual(a, x);
      b = Residual(b, y);
    }
  });
}

// A row of `dim` elements as [kPartsOf<T>][PaddedPairs(dim)], zeros behind it. With kChecked, a row
// with something huge or NaN is left out: zeros, since parts of infinity would be NaN. Returns
// whether it was.
template <class T, bool kChecked>
HWY_INLINE HWY_ATTR bool SplitRow(const T* row, int64_t dim, float* to) {
  const int64_t stride = PaddedPairs(dim);
  __mmask16 beyond = 0;
  for (int64_t i = 0; i < dim; i += kPanel) {
    const __m512 a = LoadMasked(FirstLanes(dim - i), row + i);
    const __m512 b = LoadMasked(FirstLanes(dim - i - 16), row + i + 16);
    if (kChecked) beyond |= Beyond(a, kHuge) | Beyond(b, kHuge);
    SplitPairs<kPartsOf<T>>(a, b, to + i / 2, stride);
  }
  if (HWY_LIKELY(beyond == 0)) return false;
  std::fill_n(to, kPartsOf<T> * stride, 0.0f);
  return true;
}

// The keys of a tile become panels[key_tile / 32][parts][PaddedPairs(dk)][32] pairs. Whole panels
// are written, zeros where there is no key or it is left out. Returns whether one was.
template <class T, bool kChecked>
HWY_NOINLINE HWY_ATTR bool PackKeyPairs(const AttentionItem& item, int64_t kv_head, int64_t dk,
                                        int64_t tile_begin, KeyRange keys, float* panels) {
  constexpr int kParts = kPartsOf<T>;
  const int64_t depth = PaddedPairs(dk);
  TokenWalk<T> walk = KeyWalk<T>(item.kv, kv_head), ahead = walk;
  HWY_ALIGN float split[4][kParts * kMaxHeadDim / 2];
  bool left_out = false;
  const int64_t first = (keys.begin - tile_begin) / kPanel * kPanel;
  for (int64_t group = first; group < RoundUp(keys.end - tile_begin, kPanel); group += 4) {
    for (int64_t i = 0; i < 4; ++i) {
      const int64_t key = tile_begin + group + i;
      if (keys.Contains(key)) {
        left_out |= SplitRow<T, kChecked>(walk.At(key), dk, split[i]);
        FetchAhead(ahead, key, keys, dk);
      } else {
        std::fill_n(split[i], kParts * depth, 0.0f);
      }
    }
    // Parts follow one another in rows as in panels.
    const float* const rows[4] = {split[0], split[1], split[2], split[3]};
    TransposeFour(rows, kParts * depth, kPanel,
                  panels + group / kPanel * kParts * depth * kPanel + group % kPanel);
  }
  return left_out;
}

// The values of a tile become panels of up to two vectors, [head_dim_v / panel][parts][key_tile /
// 2][panel] pairs of keys. Rows are written up to multiples of 32 keys, zeros where there is no
// key; elements left out are zeros too. Returns whether there was one.
template <class T, bool kTinyToo>
HWY_NOINLINE HWY_ATTR bool PackValuePairs(const AttentionItem& item, int64_t kv_head, int64_t dv,
                                          int64_t tile_begin, KeyRange keys, int64_t key_tile,
                                          float* panels) {
  constexpr int kParts = kPartsOf<T>;
  const int64_t vectors = (dv + 15) / 16;
  TokenWalk<T> low_walk = ValueWalk<T>(item.kv, kv_head), high_walk = low_walk;
  TokenWalk<T> low_ahead = low_walk, high_ahead = low_walk;
  const T zeros[kMaxHeadDim] = {};
  __mmask16 left_out = 0;
  const int64_t first = (keys.begin - tile_begin) / kPanel * kPanel;
  for (int64_t group = first; group < keys.end - tile_begin; group += kPanel) {
    for (int64_t i = 0; i < 16; ++i) {
      const int64_t low = tile_begin + group + i, high = low + 16;
      const T* const low_row = keys.Contains(low) ? low_walk.At(low) : zeros;
      const T* const high_row = keys.Contains(high) ? high_walk.At(high) : zeros;
      FetchAhead(low_ahead, high, keys, dv);
      FetchAhead(high_ahead, high + 16, keys, dv);
      for (int64_t v = 0; v < vectors; ++v) {
        const __mmask16 mask = FirstLanes(dv - v * 16);
        __m512 a = LoadMasked(mask, low_row + v * 16);
        __m512 b = LoadMasked(mask, high_row + v * 16);
        const __mmask16 not_a = LeftOut<kTinyToo>(a), not_b = LeftOut<kTinyToo>(b);
        left_out |= not_a | not_b;
        a = _mm512_maskz_mov_ps(static_cast<__mmask16>(~not_a), a);
        b = _mm512_maskz_mov_ps(static_cast<__mmask16>(~not_b), b);
        const int64_t width = std::min<int64_t>(2, vectors - v / 2 * 2) * 16;
        float* panel = panels + v / 2 * kPanel * kParts * (key_tile / 2);
        SplitPairs<kParts>(a, b, panel + (group / 2 + i) * width + v % 2 * 16,
                           key_tile / 2 * width);
      }
    }
  }
  return left_out != 0;
}

// Weights replace the scores of their row, as [keys / 32][kParts][16] pairs, in place.
template <int kParts>
HWY_NOINLINE HWY_ATTR void ScoresToPairWeights(int64_t rows, const ScoreBlock& s, float factor,
                                               float* max, float* sum, float* rescale) {
  const FloatTag d;
  float shift[kMaxBlockRows];
  // One part rounds weights to 8 bits: the largest is to be exactly 1.
  RaiseMax</*kWhole=*/(kParts > 1)>(rows, s, factor, max, shift, rescale);
  const FloatVec vfactor = hn::Set(d, factor);
  const int64_t first = s.begin / kPanel, count = (s.end - s.begin) / kPanel;
  for (int64_t r = 0; r < rows; ++r) {
    float* row = s.scores + r * kScoreStride;
    const FloatVec vshift = hn::Set(d, shift[r] - kExp2Bias);
    FloatVec low_total = hn::Zero(d), high_total = hn::Zero(d);
    for (int64_t i = 0; i < count; ++i) {
      // Weights that take more room than their scores go in from behind.
      const int64_t group = kParts > 2 ? first + count - 1 - i : first + i;
      const float* scores = row + group * kPanel;
      const FloatVec low = WeightsOf(hn::Load(d, scores), vfactor, vshift);
      const FloatVec high = WeightsOf(hn::Load(d, scores + 16), vfactor, vshift);
      low_total = hn::Add(low_total, low);
      high_total = hn::Add(high_total, high);
      SplitPairs<kParts>(low.raw, high.raw, row + group * kParts * kTilePairs, kTilePairs);
    }
    AddToSum(hn::Add(low_total, high_total), rescale[r], sum + r * kDimAlign);
  }
}

// The scores of queries and keys that packing left out.
template <class Query, class Key>
HWY_NOINLINE HWY_ATTR void LeftOutScores(const BlockOperands& o, const ScoreBlock& s) {
  const auto left_out = [&](const float* row) {
    return std::any_of(row, row + o.dk, [](float x) { return !(std::abs(x) < kHuge); });
  };
  const auto* q = static_cast<const Query*>(o.block.item->q.data);
  TokenWalk<Key> walk = KeyWalk<Key>(o.block.item->kv, o.block.kv_head);
  HWY_ALIGN float query[kMaxHeadDim] = {}, key[kMaxHeadDim] = {};
  const KeyRange keys = Intersect(s.Keys(), o.tile.keys);
  bool key_left_out[kMaxKeyTile] = {};
  for (int64_t k = keys.begin; o.tile.keys_left_out && k < keys.end; ++k) {
    ConvertRow(walk.At(k), key, o.dk);
    key_left_out[k - o.tile.begin] = left_out(key);
  }
  for (int64_t r = 0; r < o.block.rows; ++r) {
    ConvertRow(q + o.block.QueryOffset(r), query, o.dk);
    const bool whole_row = left_out(query);
    if (!whole_row && !o.tile.keys_left_out) continue;
    for (int64_t k = keys.begin; k < keys.end; ++k) {
      if (!whole_row && !key_left_out[k - o.tile.begin]) continue;
      ConvertRow(walk.At(k), key, o.dk);
      __m512 sum = _mm512_setzero_ps();
      for (int64_t i = 0; i < o.dk; i += 16) {
        sum = _mm512_fmadd_ps(_mm512_load_ps(query + i), _mm512_load_ps(key + i), sum);
      }
      s.scores[r * kScoreStride + k - s.first_key] = _mm512_reduce_add_ps(sum);
    }
  }
}

// Queries and K and V in as many parts as their types need; weights in as many as queries.
template <class Query, class Key>
struct PairMath {
  using Storage = Key;
  static constexpr int kQueryParts = kPartsOf<Query>, kKeyParts = kPartsOf<Key>;
  // With one part on both sides, products take NaN and infinity where they belong by themselves.
  static constexpr bool kChecked = std::max(kQueryParts, kKeyParts) > 1;
  static constexpr bool kTinyToo = std::max(kQueryParts, kKeyParts) > 2;

  static int64_t QueryElems(int64_t dk) { return kQueryParts * PaddedPairs(dk); }
  static int64_t ScoreColumns(int64_t keys) { return RoundUp(keys, kPanel); }

  static void PackTile(const TaskArgs& args, float* keys, float* values, KeyTile& tile) {
    const int64_t dk = args.params.key.head_dim_k, dv = args.params.key.head_dim_v;
    const int32_t head = args.task.kv_head;
    tile.keys_left_out =
        PackKeyPairs<Key, kChecked>(args.item, head, dk, tile.begin, tile.keys, keys);
    tile.values_left_out = PackValuePairs<Key, kTinyToo>(args.item, head, dv, tile.begin, tile.keys,
                                                         tile.key_tile, values);
  }

  static void Weigh(const RowBlock& block, const ScoreBlock& s, float* max, float* sum,
                    float* rescale) {
    ScoresToPairWeights<kQueryParts>(block.rows, s, SoftmaxFactor(block.item->options), max, sum,
                                     rescale);
  }

  static bool IsLeftOut(float value) {
    return IsSpecial(value) || (kTinyToo && value != 0.0f && std::abs(value) < kTiny);
  }

  // Column c of a row of weights: the sum of its parts.
  static float Weight(const float* row, int64_t c) {
    float sum = 0.0f;
    for (int part = kQueryParts - 1; part >= 0; --part) {
      const int64_t group = c / kPanel * kQueryParts + part;
      const auto pair = std::bit_cast<uint32_t>(row[group * kTilePairs + c % 16]);
      sum += std::bit_cast<float>(c % kPanel < 16 ? pair << 16 : pair & 0xffff0000u);
    }
    return sum;
  }

  // f(first vector, weights, values, stride of the values' parts, pairs of keys, vectors) for each
  // panel of V over `keys`, rounded to multiples of 32 keys of the tile.
  template <class F>
  HWY_INLINE HWY_ATTR static void ForValuePanels(const BlockOperands& o, KeyRange keys,
                                                 const float* weights, F&& f) {
    const int64_t vectors = (o.dv + 15) / 16;
    const int64_t first = (keys.begin - o.tile.begin) / kPanel;
    const int64_t groups = RoundUp(keys.end - o.tile.begin, kPanel) / kPanel - first;
    for (int64_t v = 0; v < vectors; v += 2) {
      const int64_t width = std::min<int64_t>(2, vectors - v) * 16;
      const int64_t part = o.tile.key_tile / 2 * width;
      const float* values = o.values + v * 16 * kKeyParts * (o.tile.key_tile / 2);
      f(v, weights + first * kQueryParts * kTilePairs, values + first * kTilePairs * width, part,
        groups * kTilePairs, width / 16);
    }
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace attnd
HWY_AFTER_NAMESPACE();
#endif  // ATTND_TARGET_AVX512

#endif
