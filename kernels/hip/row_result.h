// SPDX-License-Identifier: Apache-2.0
//
// The end of a row's softmax: the sink's share, the division, the log-sum-exp. Shared by the
// attention kernel, for rows that are not split, and the merge kernel.
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

// The row's chunk of sums at `dim`, divided, to its place; with the first one the log-sum-exp.
ATTND_DEVICE void StoreResult(const Item& item, Type type, OutputRow row, int dim,
                              const RowResult& result, float (&values)[kChunk]) {
  ATTND_UNROLL
  for (int i = 0; i < kChunk; ++i) values[i] = result.any ? values[i] * result.factor : 0.0f;
  StoreChunk(type,
             item.out.data + row.query * item.out.token_stride_bytes +
                 row.head * item.out.head_stride_bytes + dim * SizeOf(type),
             values);
  if (dim == 0 && item.lse != nullptr) {
    item.lse[row.query * item.lse_token_stride_elems + row.head * item.lse_head_stride_elems] =
        result.lse;
  }
}

}  // namespace attnd::gpu
