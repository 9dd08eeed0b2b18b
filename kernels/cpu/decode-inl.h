// SPDX-License-Identifier: Apache-2.0
//
// The decode kernel: few rows of one KV head over many keys, bound by memory. K and V are read
// where they lie, once, for all query heads that share them; while a chunk of keys is computed, the
// next one's rows are fetched, since pages lie in no order that a hardware prefetcher could guess.
// Included once per Highway target.
#if defined(ATTND_KERNELS_CPU_DECODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTND_KERNELS_CPU_DECODE_INL_H_
#undef ATTND_KERNELS_CPU_DECODE_INL_H_
#else
#define ATTND_KERNELS_CPU_DECODE_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/cpu/attention_task.h"
#include "kernels/cpu/convert-inl.h"
#include "kernels/cpu/finish-inl.h"
#include "kernels/cpu/score-inl.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/token_walk.h"
#include "kernels/cpu/unroll-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The rows of K and V of one chunk. Columns outside `keys` repeat a row inside, so that code may
// read four at a time; `keys` is empty past the end of a task.
template <class T>
struct Chunk {
  int64_t begin = 0;  // position of column 0, a multiple of kDecodeChunk
  KeyRange keys;
  const T* k[kDecodeChunk];
  const T* v[kDecodeChunk];

  void Fill(int64_t chunk_begin, KeyRange task_keys, TokenWalk<T>& k_walk, TokenWalk<T>& v_walk) {
    begin = chunk_begin;
    keys = {std::max(begin, task_keys.begin), std::min(begin + kDecodeChunk, task_keys.end)};
    if (keys.empty()) return;
    for (int64_t c = 0; c < kDecodeChunk; ++c) {
      const int64_t key = std::clamp(begin + c, keys.begin, keys.end - 1);
      k[c] = k_walk.At(key);
      v[c] = v_walk.At(key);
    }
  }
};

// Fetches a chunk a few cache lines at a time, evenly over the time that another one is computed: a
// core has few requests to memory in flight, and idle ones are lost. In turn from both halves of K
// and of V, where pages mostly end: hardware follows several of them further than one.
template <class T>
class ChunkFetcher {
 public:
  ChunkFetcher(const Chunk<T>& chunk, int64_t dk, int64_t dv)
      : chunk_(chunk), dk_(dk), dv_(dv), row_(chunk.keys.empty() ? kHalf : 0) {}

  // Groups of four lines that there are.
  static int64_t Groups(int64_t dk, int64_t dv) {
    return kHalf * ((std::max(dk, dv) + kLine - 1) / kLine);
  }
  // The next group, if there is one.
  HWY_INLINE void Step() {
    if (row_ == kHalf) return;
    if (elem_ < dk_) {
      __builtin_prefetch(chunk_.k[row_] + elem_, 0, kIntoL2);
      __builtin_prefetch(chunk_.k[row_ + kHalf] + elem_, 0, kIntoL2);
    }
    if (elem_ < dv_) {
      __builtin_prefetch(chunk_.v[row_] + elem_, 0, kIntoL2);
      __builtin_prefetch(chunk_.v[row_ + kHalf] + elem_, 0, kIntoL2);
    }
    elem_ += kLine;
    if (elem_ < dk_ || elem_ < dv_) return;
    elem_ = 0;
    ++row_;
  }

 private:
  static constexpr int64_t kHalf = kDecodeChunk / 2;
  static constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));

  const Chunk<T>& chunk_;
  const int64_t dk_, dv_;
  int64_t row_, elem_ = 0;
};

// scores[r][c .. c + 4) for kRows rows. q rows are `q_stride` apart, zeros behind dk.
template <int kRows, class T>
HWY_INLINE HWY_ATTR void ScoreFour(const float* q, int64_t q_stride, const T* const* k, int64_t dk,
                                   float* scores) {
  const FloatTag d;
  const int64_t lanes = FloatLanes();
  FloatVec sum[kRows][4];
  Unroll<kRows>([&](auto r)
                    HWY_ATTR { Unroll<4>([&](auto c) HWY_ATTR { sum[r][c] = hn::Zero(d); }); });
  const auto step = [&](int64_t i, auto&& load) HWY_ATTR {
    FloatVec key[4];
    Unroll<4>([&](auto c) HWY_ATTR { key[c] = load(k[c] + i); });
    Unroll<kRows>([&](auto r) HWY_ATTR {
      const FloatVec query = hn::Load(d, q + r * q_stride + i);
      Unroll<4>([&](auto c) HWY_ATTR { sum[r][c] = hn::MulAdd(query, key[c], sum[r][c]); });
    });
  };
  int64_t i = 0;
  for (; i + lanes <= dk; i += lanes) {
    step(i, [&](const T* p) HWY_ATTR { return LoadFloats(d, p); });
  }
  if (i < dk) step(i, [&](const T* p) HWY_ATTR { return LoadFloatsPart(d, p, dk - i); });
  Unroll<kRows>([&](auto r) HWY_ATTR {
    StoreFour(
        sum[r], [](auto v, auto w) HWY_ATTR { return hn::Add(v, w); }, scores + r * kScoreStride);
  });
}

// out[r][0 .. kVecs * lanes) = out * rescale + weights . v over columns [begin, end) of a chunk,
// from element `offset` of each row. With kPart only the first `part` elements of a row exist.
template <int kRows, int kVecs, bool kPart, class T>
HWY_INLINE HWY_ATTR void ValueColumns(const float* weights, const T* const* v, int64_t begin,
                                      int64_t end, int64_t offset, int64_t part,
                                      const float* rescale, float* out, int64_t stride,
                                      ChunkFetcher<T>& fetcher) {
  const FloatTag d;
  const int64_t lanes = FloatLanes();
  FloatVec sum[kRows][kVecs];
  Unroll<kRows>([&](auto r)
                    HWY_ATTR { Unroll<kVecs>([&](auto i) HWY_ATTR { sum[r][i] = hn::Zero(d); }); });
  for (int64_t c = begin; c < end; ++c) {
    fetcher.Step();
    FloatVec value[kVecs];
    Unroll<kVecs>([&](auto i) HWY_ATTR {
      const T* p = v[c] + offset + i * lanes;
      value[i] = kPart ? LoadFloatsPart(d, p, part) : LoadFloats(d, p);
    });
    Unroll<kRows>([&](auto r) HWY_ATTR {
      const FloatVec weight = hn::Set(d, weights[r * kScoreStride + c]);
      Unroll<kVecs>([&](auto i) HWY_ATTR { sum[r][i] = hn::MulAdd(weight, value[i], sum[r][i]); });
    });
  }
  Unroll<kRows>([&](auto r) HWY_ATTR {
    const FloatVec scale = hn::Set(d, rescale[r]);
    Unroll<kVecs>([&](auto i) HWY_ATTR {
      float* o = out + r * stride + offset + i * lanes;
      hn::Store(hn::MulAdd(hn::Load(d, o), scale, sum[r][i]), d, o);
    });
  });
}

template <int kRows, class T>
HWY_INLINE HWY_ATTR void ValueRows(const float* weights, const T* const* v, int64_t begin,
                                   int64_t end, int64_t dv, const float* rescale, float* out,
                                   int64_t stride, ChunkFetcher<T>& fetcher) {
  const int64_t lanes = FloatLanes();
  // Enough chains of multiply-adds to cover their latency, as far as the registers go.
  constexpr int kWide = kRows <= 2 ? 8 : 4;
  int64_t i = 0;
  for (; i + kWide * lanes <= dv; i += kWide * lanes) {
    ValueColumns<kRows, kWide, false>(weights, v, begin, end, i, 0, rescale, out, stride, fetcher);
  }
  for (; kWide > 4 && i + 4 * lanes <= dv; i += 4 * lanes) {
    ValueColumns<kRows, 4, false>(weights, v, begin, end, i, 0, rescale, out, stride, fetcher);
  }
  for (; i + lanes <= dv; i += lanes) {
    ValueColumns<kRows, 1, false>(weights, v, begin, end, i, 0, rescale, out, stride, fetcher);
  }
  if (i < dv) {
    ValueColumns<kRows, 1, true>(weights, v, begin, end, i, dv - i, rescale, out, stride, fetcher);
  }
}

// f(first row, rows as a constant) over the rows in groups of up to four.
template <class F>
HWY_INLINE HWY_ATTR void ForRowGroups(int64_t rows, F&& f) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) f(r, std::integral_constant<int, 4>{});
  if (rows - r == 3) f(r, std::integral_constant<int, 3>{});
  if (rows - r == 2) f(r, std::integral_constant<int, 2>{});
  if (rows - r == 1) f(r, std::integral_constant<int, 1>{});
}

template <class T>
HWY_INLINE HWY_ATTR bool ChunkValuesFinite(const Chunk<T>& chunk, int64_t dv) {
  const FloatTag d;
  const int64_t lanes = FloatLanes();
  FloatVec poison = hn::Zero(d);
  for (int64_t c = chunk.keys.begin - chunk.begin; c < chunk.keys.end - chunk.begin; ++c) {
    for (int64_t i = 0; i < dv; i += lanes) {
      const T* p = chunk.v[c] + i;
      const FloatVec v = i + lanes <= dv ? LoadFloats(d, p) : LoadFloatsPart(d, p, dv - i);
      poison = hn::MulAdd(v, hn::Zero(d), poison);
    }
  }
  return hn::AllTrue(d, hn::Eq(poison, hn::Zero(d)));
}

// The state of a task's rows.
struct DecodeRows {
  RowBlock block;
  const float* queries;  // [rows][q_stride]
  int64_t q_stride;
  float* out;  // [rows][stride]
  int64_t stride;
  float* max;
  float* sum;
};

// As SelectValues of the tile kernel: a weight of zero does not keep NaN and infinity out, so keys
// that a row does not see are left out of its sum.
template <class T>
HWY_NOINLINE HWY_ATTR void SelectChunkValues(const DecodeRows& state, const Chunk<T>& chunk,
                                             int64_t dv, const float* weights,
                                             const float* rescale) {
  const FloatTag d;
  const int64_t lanes = FloatLanes();
  for (int64_t r = 0; r < state.block.rows; ++r) {
    for (int64_t i = 0; i < dv; i += lanes) {
      FloatVec sum = hn::Zero(d);
      for (int64_t key = chunk.keys.begin; key < chunk.keys.end; ++key) {
        if (!state.block.Sees(r, key)) continue;
        const int64_t c = key - chunk.begin;
        const T* p = chunk.v[c] + i;
        const FloatVec v = i + lanes <= dv ? LoadFloats(d, p) : LoadFloatsPart(d, p, dv - i);
        sum = hn::MulAdd(hn::Set(d, weights[r * kScoreStride + c]), v, sum);
      }
      float* o = state.out + r * state.stride + i;
      hn::Store(hn::MulAdd(hn::Load(d, o), hn::Set(d, rescale[r]), sum), d, o);
    }
  }
}

template <class T>
HWY_NOINLINE HWY_ATTR void ChunkStep(const TaskArgs& args, const DecodeRows& state,
                                     const Chunk<T>& chunk, const Chunk<T>& next, float* buffer) {
  const int64_t dk = args.params.key.head_dim_k, dv = args.params.key.head_dim_v;
  const RowBlock& block = state.block;
  const ScoreBlock scores{buffer, chunk.begin, 0, kDecodeChunk};

  // Half of it beside the scores, half beside the values.
  ChunkFetcher<T> fetcher(next, dk, dv);
  const int64_t groups = ChunkFetcher<T>::Groups(dk, dv) / 2 / (kDecodeChunk / 4);
  for (int64_t c = 0; c < kDecodeChunk; c += 4) {
    for (int64_t i = 0; i < groups; ++i) fetcher.Step();
    ForRowGroups(block.rows, [&](int64_t r, auto rows) HWY_ATTR {
      ScoreFour<rows>(state.queries + r * state.q_stride, state.q_stride, chunk.k + c, dk,
                      buffer + r * kScoreStride + c);
    });
  }

  const bool masked = !block.AllSee(scores.Keys());
  HWY_ALIGN float rescale[kMaxBlockRows];
  ShapeAndMask(block, scores, masked);
  ScoresToWeights(block, scores, state.max, state.sum, rescale);

  const int64_t begin = chunk.keys.begin - chunk.begin, end = chunk.keys.end - chunk.begin;
  if (masked && !block.AllSee(chunk.keys) && !ChunkValuesFinite(chunk, dv)) {
    SelectChunkValues(state, chunk, dv, buffer, rescale);
    return;
  }
  ForRowGroups(block.rows, [&](int64_t r, auto rows) HWY_ATTR {
    ValueRows<rows>(buffer + r * kScoreStride, chunk.v, begin, end, dv, rescale + r,
                    state.out + r * state.stride, state.stride, fetcher);
  });
}

template <class T>
HWY_NOINLINE HWY_ATTR void AttendDecode(const TaskArgs& args) {
  const AttentionTask& task = args.task;
  const KernelKey& key = args.params.key;
  const Scratch scratch(args.scratch, args.shape, key.head_dim_k, key.head_dim_v);
  const int64_t rows = task.row_end - task.row_begin;
  const int64_t group = args.params.num_query_heads / args.params.num_kv_heads;
  const DecodeRows state{{&args.item, task.kv_head, group, task.row_begin, rows},
                         scratch.queries,
                         RoundUp(key.head_dim_k, kDimAlign),
                         scratch.out,
                         RoundUp(key.head_dim_v, kDimAlign),
                         scratch.max,
                         scratch.sum};
  std::fill_n(scratch.queries, rows * state.q_stride, 0.0f);
  for (int64_t r = 0; r < rows; ++r) {
    DispatchElement(key.q_dtype, [&](auto element) HWY_ATTR {
      using Element = decltype(element);
      ConvertRow(static_cast<const Element*>(args.item.q.data) + state.block.QueryOffset(r),
                 scratch.queries + r * state.q_stride, key.head_dim_k);
    });
  }
  std::fill_n(scratch.out, rows * state.stride, 0.0f);
  std::fill_n(scratch.max, rows, kMinusInfinity);
  std::fill_n(scratch.sum, rows * kDimAlign, 0.0f);

  TokenWalk<T> k_walk = KeyWalk<T>(args.item.kv, task.kv_head);
  TokenWalk<T> v_walk = ValueWalk<T>(args.item.kv, task.kv_head);
  Chunk<T> chunks[2];
  int64_t begin = task.keys.begin / kDecodeChunk * kDecodeChunk;
  chunks[0].Fill(begin, task.keys, k_walk, v_walk);
  for (int64_t i = 0; begin < task.keys.end; ++i) {
    begin += kDecodeChunk;
    Chunk<T>& next = chunks[(i + 1) % 2];
    next.Fill(begin, task.keys, k_walk, v_walk);
    ChunkStep(args, state, chunks[i % 2], next, scratch.scores);
  }
  FinishRows(args, state.block, scratch.out, state.stride, scratch.max, scratch.sum);
}

}  // namespace HWY_NAMESPACE
}  // namespace attnd
HWY_AFTER_NAMESPACE();

#endif
