// SPDX-License-Identifier: Apache-2.0
#include "server/engine/staging.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "kernels/backend/host_memory.h"
#include "kernels/base/status_macros.h"
#include "kv_cache/error_detail.h"
#include "tests/fakes/fake_backend.h"

namespace attnd {
namespace {

using ::testing::HasSubstr;

FakePlatform device;

// A GPU as staging sees one: it counts what is taken from it.
class PinnedDevice final : public Device {
 public:
  const DeviceInfo& info() const override { return info_; }
  absl::StatusOr<Buffer> Allocate(Bytes) override { return absl::UnimplementedError("no pool"); }
  absl::StatusOr<Buffer> AllocateHost(Bytes size) override {
    if (!fails.ok()) return fails;
    ATTND_ASSIGN_OR_RETURN(Buffer memory, AllocatePlainHostMemory(size));
    ++allocations;
    held += size.value();
    auto* const shared = new Buffer(std::move(memory));
    const auto free = [](void* context, std::byte* data, Bytes freed) {
      auto [device, buffer] = *static_cast<std::pair<PinnedDevice*, Buffer*>*>(context);
      EXPECT_EQ(data, buffer->data());
      device->held -= freed.value();
      delete buffer;
      delete static_cast<std::pair<PinnedDevice*, Buffer*>*>(context);
    };
    return Buffer(shared->data(), size, free, new std::pair<PinnedDevice*, Buffer*>(this, shared));
  }
  absl::StatusOr<std::unique_ptr<Stream>> NewStream() override {
    return absl::UnimplementedError("no stream");
  }

  absl::Status fails;
  int allocations = 0;
  uint64_t held = 0;

 private:
  DeviceInfo info_;
};

TEST(StagingTest, ATenantHoldsNoMoreThanItsShare) {
  constexpr TenantIndex kChat(1), kCode(2);
  Staging staging({&device.device()}, Bytes(1u << 20));
  staging.SetTenantLimit(kChat, Bytes(256u << 10));
  {
    const absl::StatusOr<StagingBuffer> first = staging.Allocate(Bytes(200u << 10), kChat);
    ASSERT_TRUE(first.ok());
    const absl::Status refused = staging.Allocate(Bytes(200u << 10), kChat).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(refused.message()), HasSubstr("the tenant's requests hold"));
    EXPECT_EQ(GetErrorDetail(refused)->reason, ErrorReason::kTenantLimit);
    EXPECT_TRUE(staging.Allocate(Bytes(700u << 10), kCode).ok());
  }
  EXPECT_TRUE(staging.Allocate(Bytes(200u << 10), kChat).ok());
  staging.SetTenantLimit(kChat, Bytes(0));
  EXPECT_TRUE(staging.Allocate(Bytes(700u << 10), kChat).ok());
  EXPECT_EQ(staging.in_use(), Bytes(0));
}

TEST(StagingTest, BuffersAreAlignedAndAsLargeAsAsked) {
  Staging staging({&device.device()}, Bytes(1u << 30));
  for (uint64_t size : {1ull, 63ull, 4096ull, 4097ull, 5121ull, 1000000ull, (64ull << 20) + 1}) {
    absl::StatusOr<StagingBuffer> buffer = staging.Allocate(Bytes(size));
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    EXPECT_EQ(buffer->size(), Bytes(size));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % kStagingAlignment, 0u);
    std::memset(buffer->data(), 1, size);
    EXPECT_GE(staging.in_use().value(), size);
    EXPECT_LE(staging.in_use().value(), size + size / 4 + 4096);
  }
  EXPECT_EQ(staging.in_use(), Bytes(0));
}

TEST(StagingTest, ReusesAFreedBufferOfItsClass) {
  Staging staging({&device.device()}, Bytes(1u << 20));
  std::byte* first = staging.Allocate(Bytes(100000))->data();
  EXPECT_EQ(staging.Allocate(Bytes(99000))->data(), first);
}

TEST(StagingTest, RefusesBeyondItsLimitAndSaysSo) {
  Staging staging({&device.device()}, Bytes(100000));
  StagingBuffer most = *staging.Allocate(Bytes(81920));
  const absl::Status refused = staging.Allocate(Bytes(20000)).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.message(), HasSubstr("asked for 20000 bytes, 81920 of 100000"));
  most = StagingBuffer();
  EXPECT_TRUE(staging.Allocate(Bytes(20000)).ok());
  // The whole limit can be had, though no class is as small as it.
  EXPECT_TRUE(staging.Allocate(Bytes(100000)).ok());
  EXPECT_FALSE(staging.Allocate(Bytes(100001)).ok());
  EXPECT_FALSE(staging.Allocate(Bytes(~0ull)).ok());
  EXPECT_EQ(staging.in_use(), Bytes(0));
}

TEST(StagingTest, MemoryThatCannotBeHadIsRefused) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's allocator ends the process instead of returning null";
#endif
  Staging staging({&device.device()}, Bytes(~0ull));
  EXPECT_EQ(staging.Allocate(Bytes(1ull << 62)).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(staging.in_use(), Bytes(0));
}

TEST(StagingTest, AnEmptyBufferCostsNothing) {
  Staging staging({&device.device()}, Bytes(0));
  absl::StatusOr<StagingBuffer> buffer = staging.Allocate(Bytes(0));
  ASSERT_TRUE(buffer.ok());
  EXPECT_EQ(buffer->data(), nullptr);
}

TEST(StagingTest, MovedFromBuffersGiveNothingBackTwice) {
  Staging staging({&device.device()}, Bytes(1u << 20));
  StagingBuffer a = *staging.Allocate(Bytes(5000)), b = *staging.Allocate(Bytes(5000));
  a = std::move(b);
  StagingBuffer c(std::move(a));
  EXPECT_EQ(staging.in_use(), Bytes(5120));
  c = StagingBuffer();
  EXPECT_EQ(staging.in_use(), Bytes(0));
}

TEST(StagingTest, ABufferOutlivesItsStaging) {
  auto staging = std::make_unique<Staging>(std::vector<Device*>{&device.device()}, Bytes(1u << 20));
  StagingBuffer buffer = *staging->Allocate(Bytes(5000));
  staging.reset();
  std::memset(buffer.data(), 1, 5000);
}

TEST(StagingTest, SmallPinnedBuffersAreCutFromSlabs) {
  PinnedDevice gpu;
  {
    Staging staging({&gpu}, Bytes(1u << 30));
    std::vector<StagingBuffer> held;
    for (int i = 0; i < 1000; ++i) {
      held.push_back(*staging.Allocate(Bytes(4000)));
      std::memset(held.back().data(), i, 4000);
    }
    for (int i = 0; i < 1000; ++i) EXPECT_EQ(held[i].data()[3999], std::byte(i)) << i;
    EXPECT_LE(gpu.allocations, 4);
    const StagingBuffer large = *staging.Allocate(Bytes(16u << 20));
    EXPECT_LE(gpu.allocations, 5);
  }
  EXPECT_EQ(gpu.held, 0u);
}

TEST(StagingTest, PinnedMemoryIsKeptForReuseAndStaysBelowTheLimit) {
  constexpr uint64_t kMiB = 1u << 20;
  PinnedDevice gpu;
  Staging staging({&gpu}, Bytes(1024 * kMiB));
  for (int round = 0; round < 3; ++round) {
    std::vector<StagingBuffer> burst;
    burst.reserve(100);
    for (int i = 0; i < 100; ++i) burst.push_back(*staging.Allocate(Bytes(10 * kMiB)));
  }
  EXPECT_EQ(gpu.allocations, 100);
  EXPECT_EQ(gpu.held, 1000 * kMiB);
  // Another size takes the place of what is kept.
  std::vector<StagingBuffer> others;
  others.reserve(15);
  for (int i = 0; i < 15; ++i) others.push_back(*staging.Allocate(Bytes(64 * kMiB)));
  EXPECT_LE(gpu.held, 1024 * kMiB);
  EXPECT_FALSE(staging.Allocate(Bytes(128 * kMiB)).ok());
}

TEST(StagingTest, AFencedDevicesErrorIsPassedOn) {
  PinnedDevice gpu;
  gpu.fails = absl::InternalError("fenced");
  Staging staging({&gpu}, Bytes(1u << 30));
  EXPECT_EQ(staging.Allocate(Bytes(100)).status(), gpu.fails);
  EXPECT_EQ(staging.Allocate(Bytes(100u << 20)).status(), gpu.fails);
  EXPECT_EQ(staging.in_use(), Bytes(0));
  // Another device's memory serves as well.
  PinnedDevice other;
  Staging both({&gpu, &other}, Bytes(1u << 30));
  EXPECT_TRUE(both.Allocate(Bytes(100)).ok());
  EXPECT_EQ(other.allocations, 1);
}

TEST(StagingTest, ThreadsShareIt) {
  Staging staging({&device.device()}, Bytes(64u << 20));
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      std::vector<StagingBuffer> held(8);
      for (int i = 0; i < 5000; ++i) {
        const uint64_t size = 1 + random() % 200000;
        StagingBuffer buffer = *staging.Allocate(Bytes(size));
        std::memset(buffer.data(), t, 64 < size ? 64 : size);
        held[random() % held.size()] = std::move(buffer);
      }
      for (const StagingBuffer& buffer : held) {
        EXPECT_TRUE(buffer.data() == nullptr || buffer.data()[0] == std::byte(t));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(staging.in_use(), Bytes(0));
}

}  // namespace
}  // namespace attnd
