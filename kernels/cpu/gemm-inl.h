// SPDX-License-Identifier: Apache-2.0
//
// The register kernel of the tile kernel: a block of rows times two vectors of columns, both matrix
// products of attention. With 12 rows, 24 accumulators, two columns and a broadcast row fill the 32
// vector registers of AVX-512 and NEON; the 6 rows of AVX2 and SSE4 their 16. Each row's chain of
// multiply-adds is the same whatever rows share its block: batch invariance begins here.
// Included once per Highway target.
#if defined(ATTND_KERNELS_CPU_GEMM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTND_KERNELS_CPU_GEMM_INL_H_
#undef ATTND_KERNELS_CPU_GEMM_INL_H_
#else
#define ATTND_KERNELS_CPU_GEMM_INL_H_
#endif

#include <cstdint>

#include "hwy/highway.h"
#include "kernels/cpu/avx512.h"
#include "kernels/cpu/convert-inl.h"
#include "kernels/cpu/tile_shape.h"
#include "kernels/cpu/unroll-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if ATTND_TARGET_AVX512 || HWY_ARCH_ARM_A64
inline constexpr int kBlockRows = 12;
#else
inline constexpr int kBlockRows = 6;
#endif
static_assert(kBlockRows <= kMaxBlockRows && kRowTileUnit % kBlockRows == 0);

// sum[r][c] += a[r * kRowStride] * b[c * lanes].
template <int kRows, int kVecs, int64_t kRowStride>
HWY_INLINE HWY_ATTR void MultiplyStep(const float* a, const float* b,
                                      FloatVec (&sum)[kRows][kVecs]) {
  const FloatTag d;
  const int64_t lanes = FloatLanes();
  FloatVec column[kVecs];
  Unroll<kVecs>([&](auto c) HWY_ATTR { column[c] = hn::Load(d, b + c * lanes); });
  Unroll<kRows>([&](auto r) HWY_ATTR {
    const FloatVec row = hn::Set(d, a[r * kRowStride]);
    Unroll<kVecs>([&](auto c) HWY_ATTR { sum[r][c] = hn::MulAdd(row, column[c], sum[r][c]); });
  });
}

// sum[r][c] += sum over t < depth of a[r * kRowStride + t * kStep] * b[t * b_step + c * lanes].
template <int kRows, int kVecs, int64_t kRowStride, int64_t kStep>
HWY_INLINE HWY_ATTR void MultiplyAccumulate(const float* HWY_RESTRICT a,
                                            const float* HWY_RESTRICT b, int64_t b_step,
                                            int64_t depth, FloatVec (&sum)[kRows][kVecs]) {
  // Four steps a turn: 5 % on a core that issues little else beside the multiply-adds.
  int64_t t = 0;
  for (; t + 4 <= depth; t += 4) {
    MultiplyStep<kRows, kVecs, kRowStride>(a, b, sum);
    MultiplyStep<kRows, kVecs, kRowStride>(a + kStep, b + b_step, sum);
    MultiplyStep<kRows, kVecs, kRowStride>(a + 2 * kStep, b + 2 * b_step, sum);
    MultiplyStep<kRows, kVecs, kRowStride>(a + 3 * kStep, b + 3 * b_step, sum);
    a += 4 * kStep;
    b += 4 * b_step;
  }
  for (; t < depth; ++t) {
    MultiplyStep<kRows, kVecs, kRowStride>(a, b, sum);
    a += kStep;
    b += b_step;
  }
}

// scores[r][0 .. kVecs * lanes) = q . k of the first keys of one panel, all of them or one vector.
// q: [dk][kBlockRows], k: [dk][2 lanes].
template <int kRows, int kVecs>
HWY_INLINE HWY_ATTR void ScorePanel(const float* q, const float* k, int64_t dk, float* scores) {
  const FloatTag d;
  const int64_t lanes = FloatLanes();
  FloatVec sum[kRows][kVecs];
  Unroll<kRows>([&](auto r)
                    HWY_ATTR { Unroll<kVecs>([&](auto c) HWY_ATTR { sum[r][c] = hn::Zero(d); }); });
  MultiplyAccumulate<kRows, kVecs, 1, kBlockRows>(q, k, 2 * lanes, dk, sum);
  Unroll<kRows>([&](auto r) HWY_ATTR {
    Unroll<kVecs>([&](auto c)
                      HWY_ATTR { hn::Store(sum[r][c], d, scores + r * kScoreStride + c * lanes); });
  });
}

// out[r] = out[r] * rescale[r] + weights[r] . v over one panel of value columns. The product of a
// tile is summed on its own before it joins the rest: over long contexts that keeps the rounding
// error of fp32 small. v: [keys][kVecs * lanes], out rows are `out_stride` apart.
template <int kRows, int kVecs>
HWY_INLINE HWY_ATTR void ValuePanel(const float* weights, const float* v, int64_t keys,
                                    const float* rescale, float* out, int64_t out_stride) {
  const FloatTag d;
  const int64_t lanes = FloatLanes();
  FloatVec sum[kRows][kVecs];
  Unroll<kRows>([&](auto r)
                    HWY_ATTR { Unroll<kVecs>([&](auto c) HWY_ATTR { sum[r][c] = hn::Zero(d); }); });
  MultiplyAccumulate<kRows, kVecs, kScoreStride, 1>(weights, v, kVecs * lanes, keys, sum);
  Unroll<kRows>([&](auto r) HWY_ATTR {
    const FloatVec scale = hn::Set(d, rescale[r]);
    Unroll<kVecs>([&](auto c) HWY_ATTR {
      float* o = out + r * out_stride + c * lanes;
      hn::Store(hn::MulAdd(hn::Load(d, o), scale, sum[r][c]), d, o);
    });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace attnd
HWY_AFTER_NAMESPACE();

#endif
