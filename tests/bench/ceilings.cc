// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/ceilings.h"

#include <cstdint>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/bench/ceilings.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"
#include "kernels/cpu/avx512.h"
#include "kernels/cpu/bf16_unit.h"
#include "kernels/cpu/unroll-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// `rounds` times 12 chains of multiply-adds; the FLOPs done, and a result so that they are.
double FmaRounds(int64_t rounds, float* result) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  V sum[12];
  Unroll<12>([&](auto i) HWY_ATTR { sum[i] = hn::Set(d, 1.0f + i); });
  const V factor = hn::Set(d, 0.999f), term = hn::Set(d, 1e-3f);
  for (int64_t round = 0; round < rounds; ++round) {
    Unroll<12>([&](auto i) HWY_ATTR { sum[i] = hn::MulAdd(sum[i], factor, term); });
  }
  Unroll<11>([&](auto i) HWY_ATTR { sum[0] = hn::Add(sum[0], sum[i + 1]); });
  *result = hn::GetLane(hn::SumOfLanes(d, sum[0]));
  return 2.0 * 12.0 * static_cast<double>(rounds) * static_cast<double>(hn::Lanes(d));
}

// The sum of all 64-bit words, read as four streams.
uint64_t SumWords(const uint64_t* words, int64_t count) {
  const hn::ScalableTag<uint64_t> d;
  using V = hn::Vec<decltype(d)>;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  constexpr int64_t kLine = 8, kStep = 4 * kLine, kAhead = 128;  // words
  const int64_t stream = count / 4;
  V sum[4];
  Unroll<4>([&](auto i) HWY_ATTR { sum[i] = hn::Zero(d); });
  for (int64_t w = 0; w + kStep <= stream; w += kStep) {
    Unroll<4>([&](auto s) HWY_ATTR {
      const uint64_t* from = words + s * stream + w;
      for (int64_t i = 0; i < kStep; i += kLine) __builtin_prefetch(from + kAhead + i);
      for (int64_t i = 0; i < kStep; i += 4 * lanes) {
        Unroll<4>([&](auto v)
                      HWY_ATTR { sum[v] = hn::Add(sum[v], hn::Load(d, from + i + v * lanes)); });
      }
    });
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(sum[0], sum[1]), hn::Add(sum[2], sum[3]))));
}

}  // namespace HWY_NAMESPACE
}  // namespace attnd
HWY_AFTER_NAMESPACE();

#if ATTND_TARGET_AVX512
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512bf16,amx-tile,amx-bf16")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace attnd {
namespace HWY_NAMESPACE {

// As FmaRounds, with vdpbf16ps.
double DotRounds(int64_t rounds, float* result) {
#if ATTND_TARGET_AVX512
  __m512 sum[12];
  __m512bh ones;
  const __m512 bits = _mm512_castsi512_ps(_mm512_set1_epi16(0x3f80));
  std::memcpy(&ones, &bits, sizeof(ones));
  Unroll<12>([&](auto i) { sum[i] = _mm512_setzero_ps(); });
  for (int64_t round = 0; round < rounds; ++round) {
    Unroll<12>([&](auto i) { sum[i] = _mm512_dpbf16_ps(sum[i], ones, ones); });
  }
  Unroll<11>([&](auto i) { sum[0] = _mm512_add_ps(sum[0], sum[i + 1]); });
  *result = _mm512_reduce_add_ps(sum[0]);
  return 64.0 * 12.0 * static_cast<double>(rounds);
#else
  *result = 0;
  return 0.0 * static_cast<double>(rounds);
#endif
}

// Four accumulators from two tiles of rows and two of columns, as in the kernel.
double TileRounds(int64_t rounds, float* result) {
#if ATTND_TARGET_AVX512
  alignas(64) float tile[256] = {};
  _tile_loadconfig(&kTileConfig);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, tile, 64);
  _tile_loadd(5, tile, 64);
  _tile_loadd(6, tile, 64);
  _tile_loadd(7, tile, 64);
  for (int64_t round = 0; round < rounds; ++round) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, tile, 64);
  asm volatile("" ::: "memory");
  _tile_release();
  *result = tile[0];
  return 4.0 * 2.0 * 16.0 * 16.0 * 32.0 * static_cast<double>(rounds);
#else
  *result = 0;
  return 0.0 * static_cast<double>(rounds);
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace attnd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <algorithm>
#include <cstddef>
#include <numeric>
#include <utility>
#include <vector>

#include "tests/bench/stopwatch.h"

namespace attnd {
HWY_EXPORT(FmaRounds);
HWY_EXPORT(DotRounds);
HWY_EXPORT(TileRounds);
HWY_EXPORT(SumWords);

namespace bench {
namespace {
volatile uint64_t g_sink;  // keeps results alive
constexpr int64_t kSampleBytes = int64_t{256} << 20, kBufferBytes = 4 * kSampleBytes;
}  // namespace

double Ceilings::SampleFlops(double (*kernel)(int64_t rounds, float* result), int64_t rounds) {
  const int threads = pool_.num_threads();
  double best = 0;
  for (int attempt = 0; attempt < 4; ++attempt) {
    std::vector<double> flops(static_cast<size_t>(threads));
    const Stopwatch watch;
    pool_.Run(threads, threads, [&](int64_t task, int) {
      float result = 0;
      flops[static_cast<size_t>(task)] = kernel(rounds, &result);
      g_sink = static_cast<uint64_t>(result);
    });
    best = std::max(best, std::accumulate(flops.begin(), flops.end(), 0.0) / watch.Seconds());
  }
  return best;
}

double Ceilings::SampleFma() {
  return SampleFlops([](int64_t n, float* r) { return HWY_DYNAMIC_DISPATCH(FmaRounds)(n, r); },
                     2'500'000);
}

double Ceilings::SampleBf16() {
  switch (DetectBf16Unit()) {
    case Bf16Unit::kNone:
      return 0;
    case Bf16Unit::kDot:
      return SampleFlops([](int64_t n, float* r) { return HWY_DYNAMIC_DISPATCH(DotRounds)(n, r); },
                         2'500'000);
    case Bf16Unit::kTile:
      return SampleFlops([](int64_t n, float* r) { return HWY_DYNAMIC_DISPATCH(TileRounds)(n, r); },
                         250'000);
  }
  return 0;
}

double Ceilings::SampleRead() {
  if (device_ == nullptr) {
    device_ = MakeCpuDevice({.num_threads = 1});
    absl::StatusOr<Buffer> buffer = device_->Allocate(Bytes(kBufferBytes));
    if (!buffer.ok()) return 0;
    buffer_ = *std::move(buffer);
    // Or every page is the one page of zeros.
    std::fill_n(buffer_.data(), kBufferBytes, std::byte{1});
  }
  constexpr int64_t kPieces = 32, kPieceBytes = kSampleBytes / kPieces;
  const std::byte* sample = buffer_.data() + next_piece_ * kPieceBytes;
  next_piece_ = (next_piece_ + kPieces) % (kBufferBytes / kPieceBytes);
  const Stopwatch watch;
  pool_.Run(kPieces, pool_.num_threads(), [&](int64_t piece, int) {
    const auto* words = reinterpret_cast<const uint64_t*>(sample + piece * kPieceBytes);
    g_sink = HWY_DYNAMIC_DISPATCH(SumWords)(words, kPieceBytes / 8);
  });
  return static_cast<double>(kSampleBytes) / watch.Seconds();
}

}  // namespace bench
}  // namespace attnd
#endif  // HWY_ONCE
