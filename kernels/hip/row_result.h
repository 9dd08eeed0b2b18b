// SPDX-License-Identifier: Apache-2.0
//
// The end of a row's softmax: the sink's share, the division, the log-sum-exp. Shared by the
// epilogue, for rows that are not split, and merge.h.
#pragma once

#include "kernels/hip/args.h"
#include "kernels/hip/gpu.h"
#include "kernels/hip/numbers.h"
#include "kernels/hip/score.h"

namespace attnd::gpu {

struct RowResult {
  bool any;      // false: the row sees nothing, its output is zero
  float factor;  // of the sum of weights times values
  float lse;     // natural logarithm

  ATTND_ACCESSOR float Of(float value) const { return any ? value * factor : 0.0f; }
};

// `largest` is the row's largest score, `sum` that of its weights relative to it; 2^(unit * score)
// is the weight of a score.
ATTND_DEVICE RowResult FinishRow(const Item& item, int head, float largest, float sum, float unit) {
  float shift = largest == MinusInfinity() ? 0.0f : largest * unit;
  float kept = 1.0f;  // of the values, where the sink outweighs all scores
  if (item.sinks != nullptr) {
    const float sink = item.sinks[head] * kLog2E;
    const float scores = largest == MinusInfinity() ? sink : shift;
    shift = fmaxf(scores, sink);
    kept = Exp2(scores - shift);
    sum = sum * kept + Exp2(sink - shift);
  }
  if (sum == 0.0f) return {false, 0.0f, MinusInfinity()};
  return {true, kept / sum * item.dropout_scale, (shift + log2f(sum)) * kLn2};
}

struct OutputRow {
  int query;
  int head;
};

ATTND_DEVICE void StoreLse(const Item& item, OutputRow row, const RowResult& result) {
  if (item.lse == nullptr) return;
  item.lse[row.query * item.lse_token_stride_elems + row.head * item.lse_head_stride_elems] =
      result.lse;
}

// The row's chunk of sums at `dim`, divided, to its place; with the first one the log-sum-exp.
ATTND_DEVICE void StoreResult(const Item& item, Type type, OutputRow row, int dim,
                              const RowResult& result, float (&values)[kChunk]) {
  ATTND_UNROLL
  for (int i = 0; i < kChunk; ++i) values[i] = result.Of(values[i]);
  StoreChunk(type, item.out.Row(row.query, row.head) + dim * SizeOf(type), values);
  if (dim == 0) StoreLse(item, row, result);
}

// A chunk of a row of one split, or of several that were merged.
struct PartialRow {
  float largest;
  float sum;
  float values[kChunk];
};

ATTND_DEVICE void LoadValues(const PartialResults& from, int64_t place, int head_dim, int dim,
                             PartialRow& row) {
  LoadChunk(Type::kF32, reinterpret_cast<const std::byte*>(from.values + place * head_dim + dim),
            row.values);
}
ATTND_DEVICE void StoreValues(const PartialResults& to, int64_t place, int head_dim, int dim,
                              const PartialRow& row) {
  StoreChunk(Type::kF32, reinterpret_cast<std::byte*>(to.values + place * head_dim + dim),
             row.values);
}

// Splits are merged in their order, from the first on. Nothing is left to the compiler's choice of
// contractions: results are the same wherever this is done.
ATTND_DEVICE void Merge(PartialRow& row, const PartialRow& next, float unit) {
  const float largest = fmaxf(row.largest, next.largest);
  const float base = largest == MinusInfinity() ? 0.0f : largest;
  const float share = Exp2((row.largest - base) * unit);
  const float share_of_next = Exp2((next.largest - base) * unit);
  row.largest = largest;
  row.sum = fmaf(next.sum, share_of_next, row.sum * share);
  ATTND_UNROLL
  for (int i = 0; i < kChunk; ++i) {
    row.values[i] = fmaf(next.values[i], share_of_next, row.values[i] * share);
  }
}

}  // namespace attnd::gpu
