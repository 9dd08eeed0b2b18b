// SPDX-License-Identifier: Apache-2.0
//
// The Math of the tile kernel on AVX512-BF16: the register kernel of FloatMath, on pairs of bf16.
// The instruction takes denormals for zeros. Included once per Highway target, empty but on
// AVX-512.
#if defined(ATTND_KERNELS_CPU_BF16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTND_KERNELS_CPU_BF16_INL_H_
#undef ATTND_KERNELS_CPU_BF16_INL_H_
#else
#define ATTND_KERNELS_CPU_BF16_INL_H_
#endif

#include "kernels/cpu/pairs-inl.h"

#if ATTND_TARGET_AVX512
#include <cstring>

// On top of the target's instruction set. What is called from the target's own code must not be
// inlined into it.
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512bf16")
namespace attnd {
namespace HWY_NAMESPACE {

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

struct DotMath : PairMath<BFloat16, BFloat16> {
  static constexpr int64_t kRows = kBlockRows;

  static void Begin() {}
  static void End() {}

  HWY_NOINLINE static bool PackBlock(const RowBlock& block, DType, int64_t dk, float* queries) {
    const auto* q = static_cast<const BFloat16*>(block.item->q.data);
    alignas(64) float split[4][kMaxHeadDim / 2];
    for (int64_t r = 0; r < kRows; r += 4) {
      const float* rows[4];
      for (int64_t i = 0; i < 4; ++i) {
        rows[i] = split[i];
        if (r + i < block.rows) {
          SplitRow<BFloat16, false>(q + block.QueryOffset(r + i), dk, split[i]);
        } else {
          std::fill_n(split[i], PaddedPairs(dk), 0.0f);
        }
      }
      TransposeFour(rows, PaddedPairs(dk), kRows, queries + r);
    }
    return false;
  }

  HWY_NOINLINE static void Scores(const BlockOperands& o, const ScoreBlock& s) {
    const int64_t depth = PaddedPairs(o.dk);
    WithBlockRows(o.block.rows, [&](auto rows) {
      for (int64_t c = s.begin; c < s.end; c += kPanel) {
        ScoreBlockRows<rows>(o.queries, o.keys + c * depth, depth, s.scores + c);
      }
    });
  }

  HWY_NOINLINE static void AddValues(const BlockOperands& o, KeyRange keys, const float* weights,
                                     const float* rescale) {
    ForValuePanels(o, keys, weights,
                   [&](int64_t v, const float* w, const float* values, int64_t, int64_t pairs,
                       int64_t vectors) {
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

}  // namespace HWY_NAMESPACE
}  // namespace attnd
HWY_POP_ATTRIBUTES
#endif  // ATTND_TARGET_AVX512

#endif
