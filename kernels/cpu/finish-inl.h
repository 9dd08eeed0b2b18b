// SPDX-License-Identifier: Apache-2.0
//
// From the running state of rows to their place: a partial result for a split, the normalised
// output and LSE otherwise. The sink joins here, once for each row. Included once per Highway
// target.
#if defined(ATTND_KERNELS_CPU_FINISH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTND_KERNELS_CPU_FINISH_INL_H_
#undef ATTND_KERNELS_CPU_FINISH_INL_H_
#else
#define ATTND_KERNELS_CPU_FINISH_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "hwy/highway.h"
#include "kernels/cpu/attention_task.h"
#include "kernels/cpu/convert-inl.h"
#include "kernels/cpu/row_block.h"
#include "kernels/cpu/score-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The lanes of one row's sum, in a fixed order.
HWY_INLINE HWY_ATTR float SumLanes(const float* sum) {
  const FloatTag d;
  return hn::GetLane(hn::SumOfLanes(d, hn::Load(d, sum)));
}

// out: [head_dim_v], of `max` and `sum` still without the sink.
template <class T>
HWY_INLINE HWY_ATTR void WriteRow(const RowBlock& block, int64_t r, int64_t dv, const float* out,
                                  float max, float sum) {
  const FloatTag d;
  const int64_t lanes = FloatLanes();
  const AttentionItem& item = *block.item;
  float weight = 1.0f;
  if (item.options.sinks != nullptr) {
    const float sink = item.options.sinks[block.Head(r)] * kLog2e, old_max = max;
    max = std::max(max, sink);
    const float shift = max == kMinusInfinity ? 0.0f : max;
    weight = std::exp2(old_max - shift);
    sum = sum * weight + std::exp2(sink - shift);
  }
  const bool nothing = sum == 0.0f;  // no key seen, or all scores minus infinity
  const FloatVec scale = hn::Set(d, weight / sum);
  T* const to = static_cast<T*>(item.out.data) + block.OutOffset(r);
  for (int64_t i = 0; i < dv; i += lanes) {
    const FloatVec scaled = hn::Mul(hn::Load(d, out + i), scale);
    const FloatVec o = nothing ? hn::Zero(d) : scaled;
    if (i + lanes <= dv) {
      StoreFloats(d, o, to + i);
    } else {
      StoreFloatsPart(d, o, to + i, dv - i);
    }
  }
  if (item.lse.data != nullptr) {
    constexpr double kLn2 = 0.69314718055994530942;
    const double lse = (static_cast<double>(max) + std::log2(static_cast<double>(sum))) * kLn2;
    item.lse.data[block.LseOffset(r)] = nothing ? kMinusInfinity : static_cast<float>(lse);
  }
}

// The state of a block's rows to where the task says. out rows are `stride` apart.
HWY_INLINE HWY_ATTR void FinishRows(const TaskArgs& args, const RowBlock& block, const float* out,
                                    int64_t stride, const float* max, const float* sum) {
  const int64_t dv = args.params.key.head_dim_v;
  for (int64_t r = 0; r < block.rows; ++r) {
    const float row_sum = SumLanes(sum + r * kDimAlign);
    if (args.task.partial_row == kNoPartial) {
      DispatchElement(args.params.key.q_dtype, [&](auto element) HWY_ATTR {
        WriteRow<decltype(element)>(block, r, dv, out + r * stride, max[r], row_sum);
      });
      continue;
    }
    const int64_t row = args.task.partial_row + block.first_row - args.task.row_begin + r;
    float* partial = args.partials + row * PartialStride(dv);
    std::copy_n(out + r * stride, RoundUp(dv, kDimAlign), partial);
    float* state = partial + RoundUp(dv, kDimAlign);
    state[0] = max[r];
    state[1] = row_sum;
  }
}

// Merges the splits of rows in order of their keys, by their log-sum-exp.
HWY_INLINE HWY_ATTR void MergeSplits(const MergeArgs& args) {
  const FloatTag d;
  const int64_t lanes = FloatLanes();
  const MergeTask& task = args.task;
  const int64_t dv = args.params.key.head_dim_v;
  const int64_t stride = PartialStride(dv), state = RoundUp(dv, kDimAlign);
  const int64_t rows = task.row_end - task.row_begin;
  const RowBlock block{&args.item, task.kv_head,
                       args.params.num_query_heads / args.params.num_kv_heads, task.row_begin,
                       rows};
  HWY_ALIGN float out[kMaxHeadDim];
  for (int64_t r = 0; r < rows; ++r) {
    const float* first = args.partials + (task.partial_row + r) * stride;
    float max = kMinusInfinity;
    for (int64_t s = 0; s < task.num_splits; ++s) {
      max = std::max(max, first[s * rows * stride + state]);
    }
    const float shift = max == kMinusInfinity ? 0.0f : max;
    float sum = 0.0f;
    std::fill_n(out, kMaxHeadDim, 0.0f);
    for (int64_t s = 0; s < task.num_splits; ++s) {
      const float* partial = first + s * rows * stride;
      const float weight = hn::GetLane(Exp2(d, hn::Set(d, partial[state] - shift)));
      sum += partial[state + 1] * weight;
      const FloatVec vweight = hn::Set(d, weight);
      for (int64_t i = 0; i < dv; i += lanes) {
        hn::Store(hn::MulAdd(hn::Load(d, partial + i), vweight, hn::Load(d, out + i)), d, out + i);
      }
    }
    DispatchElement(args.params.key.q_dtype, [&](auto element) HWY_ATTR {
      WriteRow<decltype(element)>(block, r, dv, out, max, sum);
    });
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace attnd
HWY_AFTER_NAMESPACE();

#endif
