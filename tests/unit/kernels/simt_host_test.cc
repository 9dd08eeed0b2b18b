// SPDX-License-Identifier: Apache-2.0
//
// Tests of the tool that kernels are tested with: that it runs right ones right, and that each kind
// of mistake it promises to find is found.
#include <hip/hip_runtime.h>

#include <cmath>
#include <cstdint>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/hip/simt_host/device.h"
#include "kernels/hip/simt_host/machine.h"
#include "kernels/hip/simt_host/sanitizers.h"

namespace attnd::gpu {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

class SimtHostTest : public ::testing::TestWithParam<simt::Core> {
 protected:
  void SetUp() override { simt::SetUp({.core = GetParam()}); }

  // Runs a kernel to its end; what the executor found wrong with it.
  template <class Args>
  static std::string Run(void (*kernel)(Args), unsigned grid, unsigned block, size_t lds_bytes,
                         const std::type_identity_t<Args>& args) {
    EXPECT_EQ(LaunchKernel(kernel, grid, block, lds_bytes, nullptr, args), hipSuccess);
    std::string report = simt::LastReport();
    EXPECT_EQ(hipDeviceSynchronize(), report.empty() ? hipSuccess : hipErrorLaunchFailure);
    return report;
  }
  static int WaveSizeOfDevice() {
    hipDeviceProp_t properties;
    EXPECT_EQ(hipGetDeviceProperties(&properties, 0), hipSuccess);
    return properties.warpSize;
  }
};

const auto kWaveSizes = ::testing::Values(simt::Core::kGfx1100, simt::Core::kGfx942);
const auto kWaveSizeName = [](const auto& info) {
  return info.param == simt::Core::kGfx942 ? "Wave64" : "Wave32";
};
INSTANTIATE_TEST_SUITE_P(WaveSizes, SimtHostTest, kWaveSizes, kWaveSizeName);

struct OutArgs {
  float* out;
};

void StoreIndex(const OutArgs args) {
  args.out[blockIdx.x * blockDim.x + threadIdx.x] +=
      static_cast<float>(1 + blockIdx.x * blockDim.x + threadIdx.x);
}

TEST_P(SimtHostTest, RunsEachLaneOfEachBlockOnce) {
  std::vector<float> out(6 * 128, 0.0f), expected(out.size());
  std::iota(expected.begin(), expected.end(), 1.0f);
  EXPECT_EQ(Run(&StoreIndex, 6, 128, 0, {out.data()}), "");
  EXPECT_EQ(out, expected);
}

void ShuffleAndVote(const OutArgs args) {
  const auto lane = static_cast<int>(threadIdx.x) % WaveSize();
  float sum = static_cast<float>(lane);
  for (int mask = 1; mask < WaveSize(); mask *= 2) sum += ShuffleXor(sum, mask);
  // True in the first wave only.
  const bool any = WaveAny(threadIdx.x == 3);
  args.out[threadIdx.x] = any ? -sum : sum;
}

TEST_P(SimtHostTest, ShufflesAndVotesWithinTheWave) {
  const int wave = WaveSizeOfDevice();
  std::vector<float> out(static_cast<size_t>(4 * wave));
  EXPECT_EQ(Run(&ShuffleAndVote, 1, out.size(), 0, {out.data()}), "");
  const int pairs = wave * (wave - 1) / 2;
  const auto sum = static_cast<float>(pairs);
  for (size_t i = 0; i < out.size(); ++i) {
    EXPECT_EQ(out[i], i < static_cast<size_t>(wave) ? -sum : sum) << i;
  }
}

void VoteInBlock(const OutArgs args) {
  const bool first = BlockBarrierOr(threadIdx.x == blockDim.x - 1);
  const bool second = BlockBarrierOr(false);
  args.out[threadIdx.x] = (first ? 1.0f : 0.0f) + (second ? 2.0f : 0.0f);
}

TEST_P(SimtHostTest, BarrierOrSpansTheBlock) {
  std::vector<float> out(256);
  EXPECT_EQ(Run(&VoteInBlock, 1, 256, 0, {out.data()}), "");
  EXPECT_THAT(out, Each(1.0f));
}

// Each round every lane writes a number and reads that of a lane of another wave.
template <bool kBarrierBeforeRead, bool kBarrierAfterRead>
void Transpose(const OutArgs args) {
  auto* const lds = reinterpret_cast<float*>(Lds());
  const unsigned partner = blockDim.x - 1 - threadIdx.x;
  float sum = 0;
  for (int round = 0; round < 3; ++round) {
    lds[threadIdx.x] = static_cast<float>(100 * round) + static_cast<float>(threadIdx.x);
    if (kBarrierBeforeRead) BlockBarrier();
    sum += lds[partner];
    if (kBarrierAfterRead) BlockBarrier();
  }
  args.out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

constexpr size_t kTransposeLanes = 128;
constexpr size_t kTransposeLds = kTransposeLanes * sizeof(float);

std::vector<float> TransposeResult() {
  std::vector<float> result(2 * kTransposeLanes);
  for (size_t i = 0; i < result.size(); ++i) {
    result[i] = static_cast<float>(300 + 3 * (kTransposeLanes - 1 - i % kTransposeLanes));
  }
  return result;
}

class SimtHostBarrierTest : public SimtHostTest {
 protected:
  template <bool kBarrierBeforeRead, bool kBarrierAfterRead>
  std::vector<float> RunTranspose() {
    std::vector<float> out(2 * kTransposeLanes);
    EXPECT_EQ(Run(&Transpose<kBarrierBeforeRead, kBarrierAfterRead>, 2, kTransposeLanes,
                  kTransposeLds, {out.data()}),
              "");
    return out;
  }
};

INSTANTIATE_TEST_SUITE_P(WaveSizes, SimtHostBarrierTest, kWaveSizes, kWaveSizeName);

#if ATTND_SIMT_TSAN
TEST_P(SimtHostBarrierTest, MissingBarrierIsADataRace) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EQ((RunTranspose<true, true>()), TransposeResult());
  EXPECT_DEATH((RunTranspose<false, true>()), "data race");
  EXPECT_DEATH((RunTranspose<true, false>()), "data race");
}
#else
TEST_P(SimtHostBarrierTest, MissingBarrierShowsWhateverTheSeed) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    simt::SetUp({.core = GetParam(), .seed = seed});
    EXPECT_EQ((RunTranspose<true, true>()), TransposeResult()) << "seed " << seed;
    EXPECT_NE((RunTranspose<false, true>()), TransposeResult()) << "seed " << seed;
    EXPECT_NE((RunTranspose<true, false>()), TransposeResult()) << "seed " << seed;
  }
}
#endif

void ReadFreshLds(const OutArgs args) {
  args.out[threadIdx.x] = reinterpret_cast<const float*>(Lds())[threadIdx.x];
  reinterpret_cast<float*>(Lds())[threadIdx.x] = 1.0f;
}

TEST_P(SimtHostTest, LdsIsNanAtTheStartOfEachBlock) {
  std::vector<float> out(128, 0.0f);
  EXPECT_EQ(Run(&ReadFreshLds, 3, 128, 512, {out.data()}), "");
  for (const float x : out) EXPECT_TRUE(std::isnan(x));
}

// ------------------------------------------------------------------------------------ divergence

void ShuffleInHalf(const OutArgs args) {
  const unsigned lane = threadIdx.x % static_cast<unsigned>(WaveSize());
  if (threadIdx.x >= 64 && lane < 16) args.out[threadIdx.x] = ShuffleXor(1.0f, 1);
}

TEST_P(SimtHostTest, ReportsLanesThatEndBeforeAShuffle) {
  std::vector<float> out(128);
  EXPECT_THAT(Run(&ShuffleInHalf, 1, 128, 0, {out.data()}),
              AllOf(HasSubstr("its lanes diverge"), HasSubstr("lanes 0-15 at ShuffleXor ("),
                    HasSubstr("simt_host_test.cc:"), HasSubstr(" ended")));
}

void ShuffleInTwoPlaces(const OutArgs args) {
  if (threadIdx.x % 2 == 0) {
    args.out[threadIdx.x] = ShuffleXor(1.0f, 1);
  } else {
    args.out[threadIdx.x] = ShuffleXor(2.0f, 1);
  }
}

TEST_P(SimtHostTest, ReportsLanesThatShuffleAtDifferentPlaces) {
  std::vector<float> out(64);
  EXPECT_THAT(Run(&ShuffleInTwoPlaces, 1, 64, 0, {out.data()}),
              AllOf(HasSubstr("its lanes diverge"), HasSubstr("lane 0 at ShuffleXor"),
                    HasSubstr("lane 1 at ShuffleXor")));
}

void BarrierOfSomeLanes(const OutArgs args) {
  if (threadIdx.x != 5) BlockBarrier();
  args.out[threadIdx.x] = 0;
}

TEST_P(SimtHostTest, ReportsALaneThatMissesABarrier) {
  std::vector<float> out(128);
  EXPECT_THAT(Run(&BarrierOfSomeLanes, 1, 128, 0, {out.data()}),
              AllOf(HasSubstr("wave 0: its lanes diverge"), HasSubstr("lanes 0-4 at BlockBarrier"),
                    HasSubstr("lane 5 ended")));
}

void BarrierOfSomeWaves(const OutArgs args) {
  if (threadIdx.x >= 64) BlockBarrier();
  args.out[threadIdx.x] = 0;
}

TEST_P(SimtHostTest, ReportsAWaveThatMissesABarrier) {
  std::vector<float> out(128);
  EXPECT_THAT(Run(&BarrierOfSomeWaves, 1, 128, 0, {out.data()}),
              AllOf(HasSubstr("its waves do not meet"), HasSubstr("wave 0 ended"),
                    HasSubstr("wave 1"), HasSubstr("at BlockBarrier")));
}

void DifferentBarriers(const OutArgs args) {
  if (threadIdx.x >= 64) {
    BlockBarrier();
  } else {
    BlockBarrierOr(false);
  }
  args.out[threadIdx.x] = 0;
}

TEST_P(SimtHostTest, ReportsWavesAtDifferentBarriers) {
  std::vector<float> out(128);
  EXPECT_THAT(Run(&DifferentBarriers, 1, 128, 0, {out.data()}),
              AllOf(HasSubstr("its waves do not meet"), HasSubstr("at BlockBarrierOr")));
}

TEST_P(SimtHostTest, GoesOnAfterAFailure) {
  std::vector<float> out(128);
  EXPECT_NE(Run(&BarrierOfSomeLanes, 1, 128, 0, {out.data()}), "");
  // The device is broken until the machine is set up again.
  EXPECT_EQ(LaunchKernel(&VoteInBlock, 1, 128, 0, nullptr, {out.data()}), hipErrorLaunchFailure);
  simt::SetUp({.core = GetParam()});
  EXPECT_EQ(Run(&VoteInBlock, 1, 128, 0, {out.data()}), "");
  EXPECT_THAT(out, Each(1.0f));
}

// ------------------------------------------------------------------------------------------- LDS

struct LdsArgs {
  size_t offset;
};

void WriteLds(const LdsArgs args) {
  if (threadIdx.x == 0) Lds()[args.offset] = std::byte{1};
}

TEST_P(SimtHostTest, FindsWritesBehindLds) {
  EXPECT_EQ(Run(&WriteLds, 1, 64, 1000, {999}), "");
#if ATTND_SIMT_ASAN
  EXPECT_DEATH(Run(&WriteLds, 1, 64, 1000, {1000}), "use-after-poison");
  EXPECT_DEATH(Run(&WriteLds, 1, 64, 1000, {size_t{0} - 1}), "use-after-poison");
#else
  EXPECT_THAT(Run(&WriteLds, 1, 64, 1000, {1000}), HasSubstr("written behind the end of its LDS"));
#endif
}

// -------------------------------------------------------------------------------------- schedule

// Its lanes share a vector, which is a race.
#if !ATTND_SIMT_TSAN
struct OrderArgs {
  std::vector<unsigned>* order;
};

void NoteOrder(const OrderArgs args) {
  args.order->push_back(blockIdx.x * blockDim.x + threadIdx.x);
}

TEST_P(SimtHostTest, OrderIsTheSeeds) {
  std::set<std::vector<unsigned>> orders;
  for (const uint64_t seed : {1, 2, 3, 1, 2, 3}) {
    simt::SetUp({.core = GetParam(), .seed = seed});
    std::vector<unsigned> order;
    EXPECT_EQ(Run(&NoteOrder, 2, 128, 0, {&order}), "");
    EXPECT_EQ(std::set<unsigned>(order.begin(), order.end()).size(), 256u);
    orders.insert(order);
  }
  EXPECT_EQ(orders.size(), 3u);
}
#endif

}  // namespace
}  // namespace attnd::gpu
