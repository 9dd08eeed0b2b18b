// SPDX-License-Identifier: Apache-2.0
//
// Several devices: where sequences come to live, what they share, and what a failed device takes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_format.h"
#include "tests/unit/kv_cache/cache_fixture.h"

namespace attnd {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class DevicesTest : public CacheFixture {
 protected:
  // Two devices with pools of that many slabs of one page.
  void OpenTwo(int64_t first, int64_t second, int64_t quota = 0) {
    const int64_t superblocks = SlabLayout::For(OnePageSlabGeometry()).superblocks_per_slab;
    memories_[0] = std::make_unique<PoolMemory>(first * superblocks);
    memories_[1] = std::make_unique<PoolMemory>(second * superblocks);
    const std::span<std::byte> pools[] = {memories_[0]->span(), memories_[1]->span()};
    kv_ = std::make_unique<KvCache>(
        pools, KvCache::Options{.boot = kBoot, .poison_free_pages = true}, clock_);
    cache_ = OpenCache("main", OnePageSlabGeometry(), quota);
    by_ = kv_->OpenSession(Duration::zero(), "test")->ref;
  }
  // Freed pages are poisoned: the cache goes before its memory.
  void TearDown() override {
    CacheFixture::TearDown();
    kv_.reset();
  }
  int DeviceOf(SequenceId sequence) {
    return static_cast<int>(kv_->PlaceOf(by_, sequence)->device.value());
  }
  bool Inside(const std::byte* address, int device) {
    const std::span<std::byte> memory = memories_[static_cast<size_t>(device)]->span();
    return address >= memory.data() && address < memory.data() + memory.size();
  }

  static constexpr int64_t kPageTokens = 256;
  std::array<std::unique_ptr<PoolMemory>, 2> memories_;
};

TEST_F(DevicesTest, SequencesSpread) {
  OpenTwo(8, 8);
  std::array<int, 6> devices;
  for (int& device : devices) device = DeviceOf(Create());
  EXPECT_THAT(devices, ElementsAre(0, 1, 0, 1, 0, 1));
  const KvCacheStats stats = kv_->Stats();
  ASSERT_EQ(stats.pools.size(), 2u);
  EXPECT_EQ(stats.pools[0].num_sequences, 3);
  EXPECT_EQ(stats.pools[1].num_sequences, 3);
}

TEST_F(DevicesTest, NewSequencesGoWhereMorePagesAreFree) {
  OpenTwo(8, 8);
  ASSERT_TRUE(Write(Create(), 0, 5 * kPageTokens).ok());  // on device 0
  std::array<int, 4> devices;
  for (int& device : devices) device = DeviceOf(Create());
  // There 3 pages for two sequences, counting the new one; here 8 for one, two, three and four.
  EXPECT_THAT(devices, ElementsAre(1, 1, 1, 1));
  EXPECT_EQ(DeviceOf(Create()), 0);
}

TEST_F(DevicesTest, ASequenceAndItsForksStayOnTheirDevice) {
  OpenTwo(8, 8);
  for (const int device : {0, 1}) {
    const SequenceId parent = Create();
    ASSERT_EQ(DeviceOf(parent), device);
    ASSERT_TRUE(Write(parent, 0, kPageTokens + 1).ok());
    const SequenceId fork = *kv_->Fork(by_, parent, std::nullopt);
    EXPECT_EQ(DeviceOf(fork), device);
    // Writes to the shared page, which is copied within the device.
    const absl::StatusOr<PageLease> lease = Take(WriteAccess(fork, kPageTokens + 1, 1));
    ASSERT_TRUE(lease.ok()) << lease.status();
    EXPECT_EQ(lease->view().device, DeviceIndex(static_cast<uint32_t>(device)));
    EXPECT_TRUE(Inside(lease->view().layer_base, device));
    ASSERT_EQ(lease->copies().size(), 1u);
    EXPECT_TRUE(Inside(lease->copies()[0].source, device));
    EXPECT_TRUE(Inside(lease->copies()[0].destination, device));
  }
}

TEST_F(DevicesTest, AFullDeviceTakesNothingFromTheOther) {
  OpenTwo(2, 8);
  const SequenceId large = Create();
  ASSERT_EQ(DeviceOf(large), 1);
  SequenceId small = Create();
  while (DeviceOf(small) != 0) small = Create();
  ASSERT_TRUE(Write(small, 0, 2 * kPageTokens).ok());
  const absl::Status full = Write(small, 2 * kPageTokens, 1);
  ATTND_EXPECT_CODE(full, kResourceExhausted);
  EXPECT_THAT(full.message(), AllOf(HasSubstr("needs 1 pages and 0 are free"),
                                    HasSubstr("holds 2 pages in 1 sequences")));
  EXPECT_TRUE(Write(large, 0, 8 * kPageTokens).ok());
}

TEST_F(DevicesTest, AQuotaCountsAllDevices) {
  OpenTwo(8, 8, /*quota=*/5);
  const SequenceId here = Create(), there = Create();
  ASSERT_NE(DeviceOf(here), DeviceOf(there));
  ASSERT_TRUE(Write(here, 0, 3 * kPageTokens).ok());
  ASSERT_TRUE(Write(there, 0, 2 * kPageTokens).ok());
  const absl::Status over = Write(there, 2 * kPageTokens, 1);
  ATTND_EXPECT_CODE(over, kResourceExhausted);
  EXPECT_THAT(over.message(), AllOf(HasSubstr("the page quota of 5"), HasSubstr("holds 5 pages")));
  ASSERT_TRUE(kv_->Truncate(by_, here, TokenCount(kPageTokens)).ok());
  EXPECT_TRUE(Write(there, 2 * kPageTokens, 1).ok());
}

TEST_F(DevicesTest, AFailedDeviceLosesItsSequencesAndNoOthers) {
  OpenTwo(8, 8);
  const SequenceId lost = Create("tokens"), kept = Create();
  ASSERT_EQ(DeviceOf(lost), 0);
  for (const SequenceId id : {lost, kept}) ASSERT_TRUE(Write(id, 0, 10).ok());
  absl::StatusOr<PageLease> launched = Take(WriteAccess(lost, 10, 1));
  absl::StatusOr<PageReservation> queued = kv_->Reserve(WriteAccess(lost, 11, 1));
  ASSERT_TRUE(launched.ok() && queued.ok());

  kv_->FenceDevice(DeviceIndex(0), "it caught fire");
  kv_->FenceDevice(DeviceIndex(0), "and burnt down");
  const absl::Status answers[] = {kv_->Pin(WriteAccess(lost, 11, 1), *std::move(queued)).status(),
                                  kv_->Reserve(WriteAccess(lost, 11, 1)).status(),
                                  Take(ReadAccess(lost, 0, 1)).status()};
  for (const absl::Status& status : answers) {
    ATTND_EXPECT_CODE(status, kDataLoss);
    EXPECT_THAT(status.message(), HasSubstr("it caught fire; the sequence was on it"));
  }
  launched = absl::CancelledError();  // the lease ends
  ATTND_EXPECT_CODE(kv_->Fork(by_, lost, std::nullopt).status(), kDataLoss);
  ATTND_EXPECT_CODE(kv_->Truncate(by_, lost, TokenCount(1)), kDataLoss);
  EXPECT_TRUE(kv_->CheckIntegrity().ok());

  // What the client needs to recompute, and to get rid of it.
  EXPECT_EQ(kv_->Describe(by_, lost)->client_state, "tokens");
  EXPECT_TRUE(kv_->SetClientState(by_, lost, 1, "more").ok());
  EXPECT_TRUE(kv_->Free(by_, lost).ok());

  EXPECT_TRUE(Write(kept, 10, 1).ok());
  EXPECT_TRUE(kv_->Fork(by_, kept, std::nullopt).ok());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(DeviceOf(Create()), 1);
  EXPECT_EQ(kv_->Stats().pools[0].failure, "it caught fire");
  EXPECT_EQ(kv_->Stats().pools[1].failure, "");

  kv_->FenceDevice(DeviceIndex(1), "so did it");
  ATTND_EXPECT_CODE(Write(kept, 11, 1), kDataLoss);
  const absl::Status none = kv_->CreateSequence(by_, cache_, "").status();
  ATTND_EXPECT_CODE(none, kInternal);
  EXPECT_THAT(none.message(), HasSubstr("it caught fire"));
}

// --- Prefixes.

class DevicesPrefixTest : public DevicesTest {
 protected:
  // The keys of a prompt's first `pages` pages.
  static std::vector<std::string> Keys(int pages) {
    std::vector<std::string> keys(static_cast<size_t>(pages));
    for (size_t i = 0; i < keys.size(); ++i) keys[i] = absl::StrFormat("key of page %8d", i);
    return keys;
  }
  // A new sequence of `pages` pages on `device`, published.
  SequenceId PublishOn(int device, int pages) {
    SequenceId id = Create();
    while (DeviceOf(id) != device) id = Create();
    EXPECT_TRUE(Write(id, 0, pages * kPageTokens).ok());
    const std::vector<std::string> keys = Keys(pages);
    const std::vector<std::string_view> views(keys.begin(), keys.end());
    EXPECT_TRUE(kv_->PublishPrefix(by_, id, 0, views).ok());
    return id;
  }
  CreatedSequence CreateFrom(int pages) {
    const std::vector<std::string> keys = Keys(pages);
    const std::vector<std::string_view> views(keys.begin(), keys.end());
    return kv_
        ->CreateSequence(by_, cache_, "",
                         {.keys = views, .num_tokens = TokenCount(pages * kPageTokens + 1)})
        .value();
  }
};

TEST_F(DevicesPrefixTest, ASequenceGoesWhereItsLongestRunIs) {
  OpenTwo(8, 8);
  PublishOn(0, 3);
  const CreatedSequence on_0 = CreateFrom(3);
  EXPECT_EQ(on_0.matched.value(), 3 * kPageTokens);
  EXPECT_EQ(DeviceOf(on_0.sequence), 0);  // though more pages are free on device 1
  PublishOn(1, 4);                        // the same keys, and one more: a page for each device
  const CreatedSequence on_1 = CreateFrom(4);
  EXPECT_EQ(on_1.matched.value(), 4 * kPageTokens);
  EXPECT_EQ(DeviceOf(on_1.sequence), 1);
}

TEST_F(DevicesPrefixTest, AFailedDevicesPrefixesAreForgotten) {
  OpenTwo(8, 8);
  const SequenceId held = PublishOn(0, 2);
  ASSERT_TRUE(kv_->Free(by_, held).ok());
  EXPECT_EQ(Info().cached, PageCount(2));
  const SequenceId lost = CreateFrom(2).sequence;
  kv_->FenceDevice(DeviceIndex(0), "it caught fire");
  const CreatedSequence created = CreateFrom(2);
  EXPECT_EQ(created.matched, TokenCount(0));
  EXPECT_EQ(DeviceOf(created.sequence), 1);
  const std::string key = Keys(8).back();
  const std::vector<std::string_view> views = {key};
  ATTND_EXPECT_CODE(kv_->PublishPrefix(by_, lost, 0, views).status(), kDataLoss);
  EXPECT_EQ(Info().cached, PageCount(0));
}

TEST_F(DevicesPrefixTest, AQuotaIsMetFromBothDevicesInTheOrderOfUse) {
  OpenTwo(8, 8, /*quota=*/6);
  const SequenceId first = PublishOn(1, 2);
  const SequenceId second = PublishOn(0, 2);
  ASSERT_TRUE(kv_->Free(by_, first).ok());
  ASSERT_TRUE(kv_->Free(by_, second).ok());
  SequenceId writer = Create();
  while (DeviceOf(writer) != 0) writer = Create();
  ASSERT_TRUE(Write(writer, 0, 4 * kPageTokens).ok());
  EXPECT_EQ(Info().cached, PageCount(2));
  EXPECT_EQ(DeviceOf(CreateFrom(2).sequence), 0);  // device 1 had the older ones
  EXPECT_EQ(kv_->Stats().prefix_pages_evicted_total, 2u);
}

}  // namespace
}  // namespace attnd
