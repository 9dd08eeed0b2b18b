// SPDX-License-Identifier: Apache-2.0
#include "server/engine/staging.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

namespace attnd {
namespace {

using ::testing::HasSubstr;

TEST(StagingTest, BuffersAreAlignedAndAsLargeAsAsked) {
  Staging staging(Bytes(1u << 30));
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
  Staging staging(Bytes(1u << 20));
  std::byte* first = staging.Allocate(Bytes(100000))->data();
  EXPECT_EQ(staging.Allocate(Bytes(99000))->data(), first);
}

TEST(StagingTest, RefusesBeyondItsLimitAndSaysSo) {
  Staging staging(Bytes(100000));
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
  Staging staging(Bytes(~0ull));
  EXPECT_EQ(staging.Allocate(Bytes(1ull << 62)).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(staging.in_use(), Bytes(0));
}

TEST(StagingTest, AnEmptyBufferCostsNothing) {
  Staging staging(Bytes(0));
  absl::StatusOr<StagingBuffer> buffer = staging.Allocate(Bytes(0));
  ASSERT_TRUE(buffer.ok());
  EXPECT_EQ(buffer->data(), nullptr);
}

TEST(StagingTest, MovedFromBuffersGiveNothingBackTwice) {
  Staging staging(Bytes(1u << 20));
  StagingBuffer a = *staging.Allocate(Bytes(5000)), b = *staging.Allocate(Bytes(5000));
  a = std::move(b);
  StagingBuffer c(std::move(a));
  EXPECT_EQ(staging.in_use(), Bytes(5120));
  c = StagingBuffer();
  EXPECT_EQ(staging.in_use(), Bytes(0));
}

TEST(StagingTest, ABufferOutlivesItsStaging) {
  auto staging = std::make_unique<Staging>(Bytes(1u << 20));
  StagingBuffer buffer = *staging->Allocate(Bytes(5000));
  staging.reset();
  std::memset(buffer.data(), 1, 5000);
}

TEST(StagingTest, ThreadsShareIt) {
  Staging staging(Bytes(64u << 20));
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
