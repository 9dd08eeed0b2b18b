// SPDX-License-Identifier: Apache-2.0
//
// The online softmax of one row tile: scores become weights, weights become operands.
//
// Scores of a tile of keys are in the accumulators of S = Q K^T; `unit` turns them into exponents
// of 2. Rows are spread over lanes as the trait Mma says.
#pragma once

#include "kernels/hip/element.h"
#include "kernels/hip/gpu.h"
#include "kernels/hip/numbers.h"

namespace attnd::gpu {

// Weights are larger than they should be by two factors, which leave with the results.
//
// Halves are raised by 2^14. What many keys weigh together counts though each is far below the
// row's largest weight, as beside an attention sink; but below 2^-14 a half is subnormal and has
// fewer bits, and gfx90a's MFMA takes it for zero. Raised, weights have all their bits down to
// 2^-28, and one that comes out as 2 still fits.
//
// Where operands are weights cut off toward zero, weights are larger by half of what is cut off
// from the smallest mantissa: the cut then is a rounding, near enough, and 1 stays 1. Sums are of
// weights that nothing was cut off from.
template <class Mma, int kParts>
struct WeightScale {
  static constexpr int kRaisedBits = kParts == 1 && !kIsBFloat16<typename Mma::Element> ? 14 : 0;
  static constexpr bool kCuts = kParts == 1 && Mma::kCutsWeights;
  static constexpr float kShift =  // log2 of both
      static_cast<float>(kRaisedBits) + (kCuts ? 3.5217e-4f : 0.0f);
  static constexpr float kOfValues = 1.0f / static_cast<float>(1 << kRaisedBits);
  static constexpr float kOfSums = kOfValues / (kCuts ? 1.0f + 0x1p-12f : 1.0f);
};

// Scores become weights relative to the row's largest score so far; `rescale` is what earlier
// results are multiplied by.
template <class Mma, int kParts, int kKeyTiles>
ATTND_DEVICE void Softmax(typename Mma::Acc (&scores)[kKeyTiles], float unit,
                          float (&largest)[Mma::kRowsPerLane], float (&sum)[Mma::kRowsPerLane],
                          float (&rescale)[Mma::kRowsPerLane]) {
  constexpr int kRowSlots = Mma::kRowsPerLane;
  float offset[kRowSlots];  // in units of the exponent
  float base[kRowSlots];    // in units of the score
  ATTND_UNROLL
  for (int r = 0; r < kRowSlots; ++r) base[r] = largest[r];
  ATTND_UNROLL
  for (int n = 0; n < kKeyTiles; ++n) {
    ATTND_UNROLL
    for (int i = 0; i < Mma::kAccElems; ++i) {
      base[Mma::RowSlot(i)] = fmaxf(base[Mma::RowSlot(i)], scores[n][i]);
    }
  }
  ATTND_UNROLL
  for (int r = 0; r < kRowSlots; ++r) {
    const float before = largest[r];
    largest[r] = Mma::RowMax(base[r]);
    base[r] = largest[r] == MinusInfinity() ? 0.0f : largest[r];
    if constexpr (kParts > 1) {
      rescale[r] = Exp2((before - base[r]) * unit);
    } else {
      // One multiply-add a score. Its rounding is the same for all scores of the row and cancels;
      // but from 2^24 on it is more than the exponent takes, and the difference goes first.
      offset[r] = base[r] * unit;
      if (fabsf(offset[r]) <= 0x1p24f) {
        rescale[r] = Exp2(before * unit - offset[r]);
        base[r] = 0.0f;
      } else {
        rescale[r] = Exp2((before - base[r]) * unit);
        offset[r] = 0.0f;
      }
    }
    sum[r] *= rescale[r];
  }
  if constexpr (kParts == 1) {
    bool large = false;
    ATTND_UNROLL
    for (int r = 0; r < kRowSlots; ++r) large |= base[r] != 0.0f;
    if (large) {
      ATTND_UNROLL
      for (int n = 0; n < kKeyTiles; ++n) {
        ATTND_UNROLL
        for (int i = 0; i < Mma::kAccElems; ++i) scores[n][i] -= base[Mma::RowSlot(i)];
      }
    }
  }
  if constexpr (WeightScale<Mma, kParts>::kShift > 0.0f) {
    ATTND_UNROLL
    for (int r = 0; r < kRowSlots; ++r) offset[r] -= WeightScale<Mma, kParts>::kShift;
  }
  ATTND_UNROLL
  for (int n = 0; n < kKeyTiles; ++n) {
    ATTND_UNROLL
    for (int i = 0; i < Mma::kAccElems; ++i) {
      const int r = Mma::RowSlot(i);
      float exponent;
      if constexpr (kParts > 1) {
        exponent = (scores[n][i] - base[r]) * unit;
      } else {
        exponent = scores[n][i] * unit - offset[r];
      }
      const float weight = Exp2(exponent);
      sum[r] += weight;
      scores[n][i] = weight;
    }
  }
  // The compiler would put the sum off to where it is needed, a tile later, and hold all weights.
  ATTND_UNROLL
  for (int r = 0; r < kRowSlots; ++r) sum[r] = Opaque(sum[r]);
}

// The weights of as many keys as an operand is deep; those of kF32 in three parts.
template <class Mma, int kParts>
ATTND_DEVICE void WeightsToOperands(const typename Mma::Acc* weights, int lane,
                                    typename Mma::Query (&to)[kParts]) {
  if constexpr (kParts == 1) {
    to[0] = Mma::ToWeights(weights, lane);
  } else {
    constexpr int kSubs = Mma::kDepth / 16;
    typename Mma::Acc rest[kSubs], high[kSubs];
    ATTND_UNROLL
    for (int t = 0; t < kSubs; ++t) rest[t] = weights[t];
    ATTND_UNROLL
    for (int part = 0; part < kParts; ++part) {
      ATTND_UNROLL
      for (int t = 0; t < kSubs; ++t) {
        ATTND_UNROLL
        for (int i = 0; i < Mma::kAccElems; ++i) {
          const float x = rest[t][i];
          high[t][i] = BitsToFloat(FloatToBits(x) & 0xffff0000u);
          rest[t][i] = WithoutHighPart(x);
        }
      }
      to[part] = Mma::ToWeights(high, lane);
    }
  }
}

}  // namespace attnd::gpu
