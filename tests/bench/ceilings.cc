// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/ceilings.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/bench/ceilings.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"
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

// The sum of all 64-bit words, in four chains.
uint64_t SumWords(const uint64_t* words, int64_t count) {
  const hn::ScalableTag<uint64_t> d;
  using V = hn::Vec<decltype(d)>;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  V sum[4];
  Unroll<4>([&](auto i) HWY_ATTR { sum[i] = hn::Zero(d); });
  for (int64_t w = 0; w + 4 * lanes <= count; w += 4 * lanes) {
    Unroll<4>([&](auto i)
                  HWY_ATTR { sum[i] = hn::Add(sum[i], hn::Load(d, words + w + i * lanes)); });
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(sum[0], sum[1]), hn::Add(sum[2], sum[3]))));
}

}  // namespace HWY_NAMESPACE
}  // namespace attnd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <algorithm>
#include <vector>

#include "kernels/cpu/cpu_device.h"
#include "tests/bench/stopwatch.h"

namespace attnd {
HWY_EXPORT(FmaRounds);
HWY_EXPORT(SumWords);

namespace bench {
namespace {
constexpr int kTries = 15;
volatile uint64_t g_sink;  // keeps results alive
}  // namespace

double MeasureFmaPeak(ThreadPool& pool) {
  const int threads = pool.num_threads();
  double best = 0;
  for (int attempt = 0; attempt < kTries; ++attempt) {
    std::vector<double> flops(static_cast<size_t>(threads));
    const Stopwatch watch;
    pool.Run(threads, threads, [&](int64_t task, int) {
      float result = 0;
      flops[static_cast<size_t>(task)] = HWY_DYNAMIC_DISPATCH(FmaRounds)(2'000'000, &result);
      g_sink = static_cast<uint64_t>(result);
    });
    double total = 0;
    for (double f : flops) total += f;
    best = std::max(best, total / watch.Seconds());
  }
  return best;
}

double MeasureReadBandwidth(ThreadPool& pool) {
  constexpr int64_t kBytes = int64_t{1} << 30, kPieces = 64;
  std::unique_ptr<CpuDevice> device = MakeCpuDevice({.num_threads = 1});
  absl::StatusOr<Buffer> buffer = device->Allocate(Bytes(kBytes));
  if (!buffer.ok()) return 0;
  std::fill_n(buffer->data(), kBytes, std::byte{1});  // or every page is the one page of zeros
  double best = 0;
  for (int attempt = 0; attempt < 5; ++attempt) {
    const Stopwatch watch;
    pool.Run(kPieces, pool.num_threads(), [&](int64_t piece, int) {
      const auto* words =
          reinterpret_cast<const uint64_t*>(buffer->data() + piece * (kBytes / kPieces));
      g_sink = HWY_DYNAMIC_DISPATCH(SumWords)(words, kBytes / kPieces / 8);
    });
    best = std::max(best, static_cast<double>(kBytes) / watch.Seconds());
  }
  return best;
}

}  // namespace bench
}  // namespace attnd
#endif  // HWY_ONCE
