// SPDX-License-Identifier: Apache-2.0
//
// Staging itself, on the CPU backend, whose kernels could not tell.
#include "tests/conformance/staged_launch.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <utility>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/cpu_device.h"
#include "tests/conformance/backend_under_test.h"
#include "tests/conformance/compare.h"

namespace attnd::conformance {
namespace {

// Host memory that plays a device's.
class FakeMemory final : public TestMemory {
 public:
  ~FakeMemory() override { EXPECT_TRUE(allocations_.empty()) << "not all was freed"; }

  std::byte* Allocate(size_t bytes) override {
    auto data = std::make_unique<std::byte[]>(bytes + kAlignment);
    std::byte* const raw = data.get();
    std::byte* aligned =
        raw + (kAlignment - reinterpret_cast<uintptr_t>(raw) % kAlignment) % kAlignment;
    allocations_[aligned] = std::move(data);
    return aligned;
  }
  void Free(std::byte* data) override { EXPECT_EQ(allocations_.erase(data), 1u); }
  void Copy(std::byte* to, const std::byte* from, size_t bytes) override {
    std::memcpy(to, from, bytes);
    copied_bytes += bytes;
  }

  size_t copied_bytes = 0;

 private:
  static constexpr size_t kAlignment = 256;
  std::map<std::byte*, std::unique_ptr<std::byte[]>> allocations_;
};

ProblemSpec Spec(int64_t page_size) {
  return {.q_dtype = DType::kF16,
          .kv_dtype = DType::kBF16,
          .head_dim_k = 48,
          .head_dim_v = 32,
          .query_heads = 4,
          .kv_heads = 2,
          .page_size = page_size,
          .features = {Feature::kCausal, Feature::kLse},
          .items = {{.query_len = 5, .start = 20},
                    {.query_len = 3, .start = 4, .write_only = true},
                    {.query_len = 0, .kv_len = 0},
                    {.query_len = 1, .start = 33, .append = false}}};
}

BackendUnderTest Cpu() {
  BackendUnderTest cpu;
  std::unique_ptr<CpuDevice> device = MakeCpuDevice({.num_threads = 1});
  cpu.stream = *device->NewStream();
  cpu.backend = MakeCpuBackend(*device);
  cpu.device = std::move(device);
  return cpu;
}

TEST(StagedLaunchTest, GivesWhatALaunchInPlaceGives) {
  for (const int64_t page_size : {0, 16}) {
    BackendUnderTest cpu = Cpu();
    auto memory = std::make_unique<FakeMemory>();
    const FakeMemory& fake = *memory;
    cpu.staging = std::move(memory);
    Problem problem(Spec(page_size), TestSeed());
    ASSERT_EQ(cpu.Run(problem.params()), absl::OkStatus());
    EXPECT_GT(fake.copied_bytes, problem.pool().size());
    ExpectMatchesReference(problem);
  }
}

TEST(StagedLaunchTest, TheHostsTensorsChangeOnlyWhenTheyAreCopiedBack) {
  BackendUnderTest cpu = Cpu();
  Problem problem(Spec(16), TestSeed());
  const std::vector<std::byte> before(problem.pool().begin(), problem.pool().end());
  FakeMemory memory;
  StagedLaunch staged(memory, problem.params());
  for (size_t i = 0; i < problem.items().size(); ++i) {
    const AttentionItem& here = problem.items()[i];
    const AttentionItem& there = staged.params().items[i];
    EXPECT_EQ(there.kv.v - there.kv.k, here.kv.v - here.kv.k);
    EXPECT_EQ(here.q.data == nullptr, there.q.data == nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(there.q.data) % 256,
              reinterpret_cast<uintptr_t>(here.q.data) % 256);
  }
  ASSERT_EQ(cpu.Run(staged.params()), absl::OkStatus());
  EXPECT_TRUE(std::ranges::equal(problem.pool(), before));
  staged.CopyBack();
  EXPECT_FALSE(std::ranges::equal(problem.pool(), before));
  ExpectMatchesReference(problem);
}

}  // namespace
}  // namespace attnd::conformance
