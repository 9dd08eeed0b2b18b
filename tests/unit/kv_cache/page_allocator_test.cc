// SPDX-License-Identifier: Apache-2.0
#include "kv_cache/page_allocator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <set>
#include <vector>

#include "kv_cache/slab_choice.h"
#include "tests/unit/kv_cache/cache_fixture.h"

namespace attnd {
namespace {

// A pool without other caches behind it.
class PoolSource final : public SlabSource {
 public:
  explicit PoolSource(std::span<std::byte> memory) : pool(memory) {}
  std::optional<SuperblockRun> TakeSlab(const PageAllocator&, int64_t superblocks) override {
    return pool.Allocate(superblocks);
  }
  void ReturnSlab(const PageAllocator&, SuperblockRun run) override { pool.Free(run); }
  int64_t AvailableSuperblocks(const PageAllocator&) const override {
    return pool.free_superblocks();
  }
  std::optional<SuperblockRun> EvictSlab(const PageAllocator&, int64_t, uint64_t) override {
    return std::nullopt;
  }
  int64_t CountSlabs(const PageAllocator&, int64_t superblocks) override {
    return CountPieces(pool.FreeRuns(), {}, superblocks);
  }
  void EvictForQuota(const PageAllocator&, PageCount) override {
    ADD_FAILURE() << "no page is idle";
  }
  DevicePool pool;
};

class PageAllocatorTest : public testing::Test {
 protected:
  // 21 pages a slab unless told otherwise.
  void Make(int64_t superblocks, int64_t quota = 0,
            const CacheGeometry& geometry = SmallGeometry()) {
    memory_ = std::make_unique<PoolMemory>(superblocks);
    source_ = std::make_unique<PoolSource>(memory_->span());
    quota_ = {.limit = PageCount(quota), .taken = {}};
    pages_ = std::make_unique<PageAllocator>(
        geometry, memory_->span().data(), *source_, quota_,
        PageAllocator::Options{.device = {}, .poison_free_pages = true});
  }
  std::vector<PageId> Take(int64_t count) {
    const auto shortage = pages_->Promise(PageCount(count));
    EXPECT_FALSE(shortage.has_value());
    std::vector<PageId> taken;
    for (int64_t i = 0; i < count; ++i) taken.push_back(pages_->TakePromised());
    return taken;
  }
  void ExpectIntact(const std::vector<PageId>& owned) {
    std::vector<uint32_t> refcounts(pages_->num_page_ids(), 0);
    for (PageId page : owned) ++refcounts[page.value()];
    const absl::Status status = pages_->CheckIntegrity(refcounts);
    EXPECT_TRUE(status.ok()) << status;
  }
  bool IsPoisoned(PageId page) {
    const SlabLayout& layout = pages_->layout();
    const std::byte* row = memory_->span().data() + pages_->OffsetBytes(page);
    for (int32_t layer = 0; layer < SmallGeometry().num_layers; ++layer) {
      if (!std::all_of(row, row + layout.row_bytes,
                       [](std::byte b) { return b == std::byte{0xff}; })) {
        return false;
      }
      row += layout.layer_stride_bytes;
    }
    return true;
  }

  std::unique_ptr<PoolMemory> memory_;
  std::unique_ptr<PoolSource> source_;
  PageQuota quota_;
  std::unique_ptr<PageAllocator> pages_;
};

TEST_F(PageAllocatorTest, PagesDoNotOverlap) {
  Make(3);
  const std::vector<PageId> taken = Take(63);
  const SlabLayout& layout = pages_->layout();
  std::set<uint64_t> rows;
  for (PageId page : taken) {
    for (uint64_t layer = 0; layer < 3; ++layer) {
      const uint64_t row = pages_->OffsetBytes(page) + layer * layout.layer_stride_bytes;
      EXPECT_EQ(row % 64, 0u);
      EXPECT_LE(row + layout.row_bytes, memory_->span().size());
      EXPECT_TRUE(rows.insert(row).second);
    }
  }
  uint64_t previous_end = 0;
  for (uint64_t row : rows) {
    EXPECT_GE(row, previous_end);
    previous_end = row + layout.row_bytes;
  }
  ExpectIntact(taken);
}

TEST_F(PageAllocatorTest, ReusesAPageOnlyAfterItsLastReferenceWentUnderANewGeneration) {
  Make(1);
  const std::vector<PageId> taken = Take(21);
  const PageId page = taken[7];
  pages_->Ref(page);
  pages_->Unref(page);
  EXPECT_TRUE(pages_->Promise(PageCount(1)).has_value());
  const uint64_t generation = pages_->generation(page);
  pages_->Unref(page);
  EXPECT_EQ(Take(1), std::vector<PageId>{page});
  EXPECT_EQ(pages_->generation(page), generation + 1);
}

TEST_F(PageAllocatorTest, PromisesAreAllOrNothing) {
  Make(2);
  EXPECT_FALSE(pages_->Promise(PageCount(40)));
  const auto shortage = pages_->Promise(PageCount(3));
  ASSERT_TRUE(shortage);
  EXPECT_EQ(shortage->needed, PageCount(3));
  EXPECT_EQ(shortage->free, PageCount(2));
  EXPECT_FALSE(shortage->by_quota);
  EXPECT_EQ(pages_->promised(), PageCount(40));
  EXPECT_FALSE(pages_->Promise(PageCount(2)));
  ExpectIntact({});
}

TEST_F(PageAllocatorTest, QuotaCountsUsedAndPromisedPages) {
  Make(4, /*quota=*/10);
  const std::vector<PageId> taken = Take(6);
  EXPECT_FALSE(pages_->Promise(PageCount(3)));
  const auto shortage = pages_->Promise(PageCount(2));
  ASSERT_TRUE(shortage);
  EXPECT_TRUE(shortage->by_quota);
  EXPECT_EQ(shortage->free, PageCount(1));
  quota_.limit = PageCount(5);  // below what is in use: nothing is taken away
  EXPECT_EQ(pages_->Promise(PageCount(1))->free, PageCount(0));
  EXPECT_EQ(pages_->used(), PageCount(6));
}

TEST_F(PageAllocatorTest, FullerSlabsAreUsedFirstSoThatOthersRunEmpty) {
  Make(3);
  const std::vector<PageId> taken = Take(63);
  // 5 pages free in the first slab, 2 in the second, 9 in the third.
  for (int i = 0; i < 5; ++i) pages_->Unref(taken[static_cast<size_t>(i)]);
  for (int i = 21; i < 23; ++i) pages_->Unref(taken[static_cast<size_t>(i)]);
  for (int i = 42; i < 51; ++i) pages_->Unref(taken[static_cast<size_t>(i)]);
  const std::vector<PageId> again = Take(8);
  EXPECT_TRUE(std::all_of(again.begin(), again.begin() + 2,
                          [](PageId page) { return page.value() / 21 == 1; }));
  EXPECT_TRUE(std::all_of(again.begin() + 2, again.begin() + 7,
                          [](PageId page) { return page.value() / 21 == 0; }));
  EXPECT_EQ(again[7].value() / 21, 2u);
}

TEST_F(PageAllocatorTest, GivesUpEmptySlabsUnlessTheirPagesArePromised) {
  Make(3);
  std::vector<PageId> taken = Take(43);
  EXPECT_EQ(pages_->num_slabs(), 3);
  EXPECT_FALSE(pages_->GiveBackEmptySlab());
  pages_->Unref(taken.back());  // the third slab is empty now
  taken.pop_back();
  EXPECT_FALSE(pages_->Promise(PageCount(1)));
  EXPECT_EQ(pages_->reclaimable_superblocks(), 0);
  EXPECT_FALSE(pages_->GiveBackEmptySlab());
  pages_->Unpromise(PageCount(1));
  EXPECT_EQ(pages_->reclaimable_superblocks(), 1);
  const auto run = pages_->GiveBackEmptySlab();
  ASSERT_TRUE(run);
  source_->ReturnSlab(*pages_, *run);
  EXPECT_EQ(pages_->num_slabs(), 2);
  EXPECT_EQ(pages_->free(), PageCount(0));
  ExpectIntact(taken);
  taken.push_back(Take(1)[0]);  // grows again into the same slot
  EXPECT_EQ(pages_->num_page_ids(), 63u);
  ExpectIntact(taken);
}

TEST_F(PageAllocatorTest, RepackingWithoutRoomForMoreLosesNothing) {
  CacheGeometry geometry = SmallGeometry();
  geometry.num_layers = 5;  // slabs of three superblocks, 38 pages
  Make(10, 0, geometry);
  const SuperblockRun left = *source_->pool.Allocate(2);
  EXPECT_FALSE(pages_->Promise(PageCount(38)));  // at 2 to 4
  ASSERT_TRUE(source_->pool.Allocate(4));
  source_->ReturnSlab(*pages_, left);
  // Free: 2 before the empty slab and 1 at the end, three in all but five in one piece at most.
  EXPECT_TRUE(pages_->Promise(PageCount(1)));
  EXPECT_EQ(pages_->num_slabs(), 1);
  EXPECT_EQ(pages_->promised(), PageCount(38));
  ExpectIntact({});
}

TEST_F(PageAllocatorTest, RepackingFindsRoomForOneMoreSlab) {
  CacheGeometry geometry = SmallGeometry();
  geometry.num_layers = 5;  // slabs of three superblocks
  Make(8, 0, geometry);
  const SuperblockRun left = *source_->pool.Allocate(2);
  EXPECT_FALSE(pages_->Promise(PageCount(38)));  // at 2 to 4
  const SuperblockRun middle = *source_->pool.Allocate(1);
  ASSERT_TRUE(source_->pool.Allocate(2));
  source_->ReturnSlab(*pages_, left);
  source_->ReturnSlab(*pages_, middle);
  // 2 + slab of 3 + 1: two slabs fit if the empty one moves.
  EXPECT_FALSE(pages_->Promise(PageCount(38)));
  EXPECT_EQ(pages_->num_slabs(), 2);
  EXPECT_EQ(source_->pool.free_superblocks(), 0);
  ExpectIntact({});
}

TEST_F(PageAllocatorTest, FreedAndFreshPagesArePoisoned) {
  Make(1);
  const std::vector<PageId> taken = Take(2);
  EXPECT_TRUE(IsPoisoned(taken[0]));
  std::fill_n(memory_->span().data() + pages_->OffsetBytes(taken[0]), 100, std::byte{1});
  pages_->Unref(taken[0]);
  EXPECT_TRUE(IsPoisoned(taken[0]));
}

TEST_F(PageAllocatorTest, CopyNamesAllLayersOfBothPages) {
  Make(1);
  const std::vector<PageId> taken = Take(2);
  const PageCopy copy = pages_->Copy(taken[0], taken[1]);
  EXPECT_EQ(copy.source, memory_->span().data() + pages_->OffsetBytes(taken[0]));
  EXPECT_EQ(copy.destination, memory_->span().data() + pages_->OffsetBytes(taken[1]));
  EXPECT_EQ(copy.num_layers, 3);
  EXPECT_EQ(copy.row_bytes, pages_->layout().row_bytes);
  EXPECT_EQ(copy.layer_stride_bytes, pages_->layout().layer_stride_bytes);
}

TEST_F(PageAllocatorTest, IntegrityNamesAWrongReferenceCount) {
  Make(1);
  const std::vector<PageId> taken = Take(2);
  std::vector<uint32_t> refcounts(pages_->num_page_ids(), 0);
  refcounts[taken[0].value()] = 2;
  refcounts[taken[1].value()] = 1;
  EXPECT_EQ(pages_->CheckIntegrity(refcounts).code(), absl::StatusCode::kInternal);
}

TEST_F(PageAllocatorTest, DestructionGivesSlabsBack) {
  Make(3);
  Take(50);
  pages_.reset();
  EXPECT_EQ(source_->pool.largest_free_run(), 3);
}

using PageAllocatorDeathTest = PageAllocatorTest;
TEST_F(PageAllocatorDeathTest, FreeingTwiceStopsTheProcess) {
  Make(1);
  const PageId page = Take(1)[0];
  pages_->Unref(page);
  EXPECT_DEATH(pages_->Unref(page), "page freed twice");
  EXPECT_DEATH(pages_->TakePromised(), "not promised");
}

}  // namespace
}  // namespace attnd
