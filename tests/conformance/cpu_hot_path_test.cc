// SPDX-License-Identifier: Apache-2.0
//
// What a launch that was seen before may not do: allocate, whatever kernels and features it takes.
#include <memory>
#include <random>
#include <string>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/cpu_device.h"
#include "tests/conformance/problem.h"
#include "tests/fakes/allocation_counter.h"

namespace attnd::conformance {
namespace {

struct Case {
  const char* name;
  DType dtype;
  FeatureSet features;
};

class CpuHotPathTest : public testing::TestWithParam<Case> {};

TEST_P(CpuHotPathTest, SecondLaunchOfAPlanAllocatesNothing) {
  for (int threads : {1, 2}) {
    const std::unique_ptr<CpuDevice> device = MakeCpuDevice({.num_threads = threads});
    const std::unique_ptr<AttentionBackend> backend = MakeCpuBackend(*device);
    const std::unique_ptr<Stream> stream = *device->NewStream();
    const std::unique_ptr<LaunchPlan> plan = backend->NewPlan();
    // Decode, split decode, prefill, prefill over a long context: all tasks that there are.
    Problem problem({.q_dtype = GetParam().dtype,
                     .kv_dtype = GetParam().dtype,
                     .query_heads = 4,
                     .kv_heads = 2,
                     .features = GetParam().features,
                     .items = {{.query_len = 1, .start = 100},
                               {.query_len = 1, .start = 3000},
                               {.query_len = 200},
                               {.query_len = 20, .start = 4090}}},
                    std::random_device()());
    const int64_t cold = AllocationCount();
    for (int launch = 0; launch < 4; ++launch) {
      const int64_t before = AllocationCount();
      ASSERT_TRUE(backend->Plan(problem.params(), *plan).ok());
      ASSERT_TRUE(backend->Launch(*stream, *plan, problem.params()).ok());
      if (launch > 0) {
        EXPECT_EQ(AllocationCount() - before, 0) << threads << " threads, launch " << launch;
      }
    }
    EXPECT_GT(AllocationCount() - cold, 0) << "counts nothing";
  }
}

INSTANTIATE_TEST_SUITE_P(
    Cases, CpuHotPathTest,
    testing::Values(Case{"F32", DType::kF32, {}}, Case{"F16", DType::kF16, {Feature::kCausal}},
                    Case{"BF16", DType::kBF16, {Feature::kCausal, Feature::kLse}},
                    Case{"Everything",
                         DType::kBF16,
                         {Feature::kCausal, Feature::kWindow, Feature::kSoftcap, Feature::kAlibi,
                          Feature::kSinks, Feature::kTreeMask, Feature::kDropout, Feature::kLse}}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace attnd::conformance
