// SPDX-License-Identifier: Apache-2.0
//
// What happens to a block of scores between the two products: soft cap and ALiBi, masks, the online
// softmax, dropout. Shared by the tile and the decode kernel. Scores are in base 2 from here on,
// exp(s) = 2^(s log2 e), which saves a multiplication a score. Included once per Highway target.
#if defined(ATTND_KERNELS_CPU_SCORE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTND_KERNELS_CPU_SCORE_INL_H_
#undef ATTND_KERNELS_CPU_SCORE_INL_H_
#else
#define ATTND_KERNELS_CPU_SCORE_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "hwy/highway.h"
#include "kernels/base/philox.h"
#include "kernels/cpu/convert-inl.h"
#include "kernels/cpu/row_block.h"
#include "kernels/cpu/tile_shape.h"
#include "kernels/cpu/unroll-inl.h"
#include "kernels/cpu/vec_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr float kLog2e = 1.44269504088896341f;
inline constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Columns [begin, end) of a block of scores, whole vectors; column c is the key first_key + c.
struct ScoreBlock {
  float* scores;  // [rows][kScoreStride]
  int64_t first_key;
  int64_t begin;
  int64_t end;

  KeyRange Keys() const { return {first_key + begin, first_key + end}; }
};

// Where the options only scale, scores stay raw products and the softmax scales them; otherwise
// ShapeScores has made base-2 scores of them and there is nothing left to scale. A scale that is
// not positive takes the long way too: largest scores would not be largest products.
inline bool NeedsShaping(const ScoreOptions& options) {
  return options.softcap > 0.0f || options.alibi_slopes != nullptr ||
         !(options.softmax_scale > 0.0f);
}
inline float SoftmaxFactor(const ScoreOptions& options) {
  return NeedsShaping(options) ? 1.0f : options.softmax_scale * kLog2e;
}

inline HWY_NOINLINE HWY_ATTR void ShapeScores(const RowBlock& block, const ScoreBlock& s) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const int64_t lanes = FloatLanes();
  const ScoreOptions& options = block.item->options;
  const bool caps = options.softcap > 0.0f;
  const FloatVec scale =
      hn::Set(d, caps ? options.softmax_scale / options.softcap : options.softmax_scale);
  const FloatVec cap = hn::Set(d, options.softcap);
  const FloatVec log2e = hn::Set(d, kLog2e);
  for (int64_t r = 0; r < block.rows; ++r) {
    const bool biased = options.alibi_slopes != nullptr;
    const FloatVec slope = hn::Set(d, biased ? -options.alibi_slopes[block.Head(r)] : 0.0f);
    // Distances are differences of integers: exact in fp32 up to 2^24 tokens.
    const int64_t distance = block.Position(r) - s.first_key;
    float* row = s.scores + r * kScoreStride;
    for (int64_t c = s.begin; c < s.end; c += lanes) {
      FloatVec x = hn::Mul(hn::Load(d, row + c), scale);
      if (caps) x = hn::Mul(cap, Tanh(d, x));
      if (biased) {
        const auto ahead = hn::Iota(di, static_cast<int32_t>(c - distance));
        x = hn::MulAdd(slope, hn::Abs(hn::ConvertTo(d, ahead)), x);
      }
      hn::Store(hn::Mul(x, log2e), d, row + c);
    }
  }
}

// Minus infinity in columns [begin, end) of a row. By selection: whatever the score was, it is
// gone.
HWY_INLINE HWY_ATTR void HideColumns(float* row, int64_t begin, int64_t end) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const int64_t lanes = FloatLanes();
  const auto first = hn::Set(di, static_cast<int32_t>(begin - 1));
  const auto last = hn::Set(di, static_cast<int32_t>(end));
  for (int64_t c = begin / lanes * lanes; c < end; c += lanes) {
    const auto index = hn::Iota(di, static_cast<int32_t>(c));
    const auto hidden = hn::RebindMask(d, hn::And(hn::Gt(index, first), hn::Lt(index, last)));
    const FloatVec score = hn::Load(d, row + c);
    hn::Store(hn::IfThenElse(hidden, hn::Set(d, kMinusInfinity), score), d, row + c);
  }
}

// Hides every key from the rows that do not see it.
inline HWY_NOINLINE HWY_ATTR void MaskScores(const RowBlock& block, const ScoreBlock& s) {
  const auto column = [&](int64_t key) {
    return std::clamp<int64_t>(key - s.first_key, s.begin, s.end);
  };
  for (int64_t r = 0; r < block.rows; ++r) {
    const KeyRange range = block.Range(r);
    float* row = s.scores + r * kScoreStride;
    HideColumns(row, s.begin, column(range.begin));
    HideColumns(row, column(range.end), s.end);
    if (block.item->options.tree_mask == nullptr) continue;
    for (int64_t c = s.begin; c < s.end; ++c) {
      if (!TreeMaskAllows(*block.item, block.Query(r), s.first_key + c)) row[c] = kMinusInfinity;
    }
  }
}

// Combines the blocks of 128 bits of a vector into one.
template <class D, class Combine>
HWY_INLINE HWY_ATTR void StoreBlocks(D d, hn::Vec<D> v, const Combine& combine, float* to) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    hn::StoreU(v, d, to);
  } else {
    const hn::Half<D> half;
    StoreBlocks(half, combine(hn::LowerHalf(half, v), hn::UpperHalf(half, v)), combine, to);
  }
}

// Combines the lanes of each of four vectors, into four neighbouring floats.
template <class Combine>
HWY_INLINE HWY_ATTR void StoreFour(const FloatVec (&v)[4], const Combine& combine, float* to) {
  const FloatTag d;
  const hn::Repartition<double, FloatTag> d64;
  const auto low = hn::BitCast(
      d64, combine(hn::InterleaveLower(d, v[0], v[1]), hn::InterleaveUpper(d, v[0], v[1])));
  const auto high = hn::BitCast(
      d64, combine(hn::InterleaveLower(d, v[2], v[3]), hn::InterleaveUpper(d, v[2], v[3])));
  // In each block of 128 bits: that block's part of all four.
  StoreBlocks(d,
              combine(hn::BitCast(d, hn::InterleaveLower(d64, low, high)),
                      hn::BitCast(d, hn::InterleaveUpper(d64, low, high))),
              combine, to);
}

// From here on a product with the factor is rounded by more than 1. Exponents are exact products
// less a rounded one, so the largest weight would be far from 1: infinite, or 0 as all the others.
inline constexpr float kLargeShift = 0x1p24f;

// Rows of scores that are reduced by as much as that: here, rounded first, and no more later.
inline HWY_NOINLINE HWY_ATTR void ReduceLargeScores(int64_t rows, const ScoreBlock& s, float factor,
                                                    float* shift) {
  const FloatTag d;
  const int64_t lanes = FloatLanes();
  for (int64_t r = 0; r < rows; ++r) {
    if (std::abs(shift[r]) < kLargeShift || !std::isfinite(shift[r])) continue;
    float* row = s.scores + r * kScoreStride;
    // In two passes, lest the compiler make one exact product and difference of them again.
    for (int64_t c = s.begin; c < s.end; c += lanes) {
      hn::Store(hn::Mul(hn::Load(d, row + c), hn::Set(d, factor)), d, row + c);
    }
    for (int64_t c = s.begin; c < s.end; c += lanes) {
      const FloatVec reduced = hn::Sub(hn::Load(d, row + c), hn::Set(d, shift[r]));
      hn::Store(hn::Div(reduced, hn::Set(d, factor)), d, row + c);
    }
    shift[r] = 0.0f;
  }
}

// The first half of an online softmax step: max takes in the rows' scores, shift[r] is what
// exponents are reduced by, rescale[r] what earlier results are to be multiplied by (both arrays of
// kMaxBlockRows, the second aligned). With kWhole, max is rounded up to a whole number: so it rises
// seldom, and rescaling only moves exponents. Without, the largest weight is exactly 1: no error of
// rounding it to few bits where it is most of the sum.
template <bool kWhole>
HWY_INLINE HWY_ATTR void RaiseMax(int64_t rows, const ScoreBlock& s, float factor, float* max,
                                  float* shift, float* rescale) {
  const FloatTag d;
  const int64_t lanes = FloatLanes();
  // Four rows at a time; those beyond the last hold whatever was there and are not looked at.
  HWY_ALIGN float largest[kMaxBlockRows], old_max[kMaxBlockRows];
  for (int64_t r = 0; r < rows; r += 4) {
    FloatVec m[4];
    Unroll<4>([&](auto i) HWY_ATTR { m[i] = hn::Set(d, kMinusInfinity); });
    for (int64_t c = s.begin; c < s.end; c += lanes) {
      Unroll<4>([&](auto i) HWY_ATTR {
        m[i] = hn::Max(hn::Load(d, s.scores + (r + i) * kScoreStride + c), m[i]);
      });
    }
    StoreFour(
        m, [](auto v, auto w) HWY_ATTR { return hn::Max(v, w); }, largest + r);
  }
  std::copy_n(max, rows, old_max);
  bool large = false;
  for (int64_t r = 0; r < rows; r += lanes) {
    FloatVec score = hn::Mul(hn::Load(d, largest + r), hn::Set(d, factor));
    if (kWhole) score = hn::Ceil(score);
    // A NaN may or may not show up here; among the weights it will in any case.
    const FloatVec old = hn::Load(d, old_max + r), raised = hn::Max(score, old);
    // Nothing seen yet: weights are 0.
    const auto none = hn::Eq(raised, hn::Set(d, kMinusInfinity));
    const FloatVec reduced = hn::IfThenElse(none, hn::Zero(d), raised);
    large |= !hn::AllTrue(d, hn::Lt(hn::Abs(reduced), hn::Set(d, kLargeShift)));
    hn::StoreU(reduced, d, shift + r);
    hn::Store(Exp2(d, hn::Sub(old, reduced)), d, rescale + r);
    hn::Store(raised, d, largest + r);
  }
  std::copy_n(largest, rows, max);
  if (HWY_UNLIKELY(large)) ReduceLargeScores(rows, s, factor, shift);
}

// The second half, a vector of a row at a time: 2^(score * factor - shift).
HWY_INLINE HWY_ATTR FloatVec WeightsOf(FloatVec scores, FloatVec factor, FloatVec biased_shift) {
  return BiasedExp2(FloatTag(), hn::MulSub(scores, factor, biased_shift));
}

// A row's sum of weights, a vector of kDimAlign, takes in those of a block.
HWY_INLINE HWY_ATTR void AddToSum(FloatVec weights, float rescale, float* row_sum) {
  const FloatTag d;
  hn::Store(hn::MulAdd(hn::Load(d, row_sum), hn::Set(d, rescale), weights), d, row_sum);
}

// A whole step: scores become weights, max and sum take them in.
inline HWY_NOINLINE HWY_ATTR void SoftmaxStep(int64_t rows, const ScoreBlock& s, float factor,
                                              float* max, float* sum, float* rescale) {
  const FloatTag d;
  const int64_t lanes = FloatLanes();
  float shift[kMaxBlockRows];
  RaiseMax<true>(rows, s, factor, max, shift, rescale);
  const FloatVec vfactor = hn::Set(d, factor);
  for (int64_t r = 0; r < rows; ++r) {
    float* row = s.scores + r * kScoreStride;
    const FloatVec vshift = hn::Set(d, shift[r] - kExp2Bias);
    FloatVec total = hn::Zero(d);
    for (int64_t c = s.begin; c < s.end; c += lanes) {
      const FloatVec weights = WeightsOf(hn::Load(d, row + c), vfactor, vshift);
      hn::Store(weights, d, row + c);
      total = hn::Add(total, weights);
    }
    AddToSum(total, rescale[r], sum + r * kDimAlign);
  }
}

// Drops weights after their sum was taken. Column s.begin is a multiple of four keys.
inline HWY_NOINLINE HWY_ATTR void DropWeights(const RowBlock& block, const ScoreBlock& s) {
  const Dropout& dropout = block.item->options.dropout;
  const uint32_t threshold = dropout.threshold();
  const float scale = dropout.scale();
  for (int64_t r = 0; r < block.rows; ++r) {
    float* row = s.scores + r * kScoreStride;
    const auto head = static_cast<uint32_t>(block.Head(r));
    const auto position = static_cast<uint32_t>(block.Position(r));
    for (int64_t c = s.begin; c < s.end; c += 4) {
      const auto key_block = static_cast<uint32_t>((s.first_key + c) / 4);
      const auto draws = DropoutDraws(dropout, head, position, key_block);
      for (int64_t i = 0; i < 4; ++i) row[c + i] *= draws[i] >= threshold ? scale : 0.0f;
    }
  }
}

// What options and masks make of raw products, before the softmax.
HWY_INLINE HWY_ATTR void ShapeAndMask(const RowBlock& block, const ScoreBlock& s, bool masked) {
  if (NeedsShaping(block.item->options)) ShapeScores(block, s);
  if (masked) MaskScores(block, s);
}

// Scores to weights, dropout included.
HWY_INLINE HWY_ATTR void ScoresToWeights(const RowBlock& block, const ScoreBlock& s, float* max,
                                         float* sum, float* rescale) {
  const ScoreOptions& options = block.item->options;
  SoftmaxStep(block.rows, s, SoftmaxFactor(options), max, sum, rescale);
  if (options.dropout.enabled()) DropWeights(block, s);
}

}  // namespace HWY_NAMESPACE
}  // namespace attnd
HWY_AFTER_NAMESPACE();

#endif
