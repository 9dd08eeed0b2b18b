// SPDX-License-Identifier: Apache-2.0
//
// Prefixes through the facade: what is matched and by whom, what a published page keeps, what is
// evicted when pages run out and in which order.
#include "kv_cache/prefix_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_format.h"
#include "tests/unit/kv_cache/cache_fixture.h"
#include "tests/unit/kv_cache/page_bytes.h"

namespace attnd {
namespace {

using ::testing::HasSubstr;

// Keys of the pages of a prompt that `name` stands for.
std::vector<std::string> Keys(std::string_view name, int count) {
  std::vector<std::string> keys(static_cast<size_t>(count));
  for (size_t i = 0; i < keys.size(); ++i) {
    keys[i] = absl::StrFormat("%-8s page %8d", name, i);
  }
  return keys;
}

class PrefixTest : public CacheFixture {
 protected:
  static constexpr int64_t kPage = 4;        // tokens, of SmallGeometry
  static constexpr int64_t kPoolPages = 21;  // of one superblock

  using Views = std::vector<std::string_view>;
  static Views ViewsOf(const std::vector<std::string>& keys) { return {keys.begin(), keys.end()}; }

  absl::StatusOr<PublishedPrefix> TryPublish(SequenceId id, const std::vector<std::string>& keys,
                                             int64_t first_page = 0) {
    return kv_->PublishPrefix(by_, id, first_page, ViewsOf(keys));
  }
  PublishedPrefix Publish(SequenceId id, const std::vector<std::string>& keys,
                          int64_t first_page = 0) {
    const auto published = TryPublish(id, keys, first_page);
    EXPECT_TRUE(published.ok()) << published.status();
    return published.value_or(PublishedPrefix());
  }
  absl::StatusOr<CreatedSequence> TryCreateFrom(const std::vector<std::string>& keys,
                                                int64_t num_tokens) {
    return kv_->CreateSequence(by_, cache_, "",
                               {.keys = ViewsOf(keys), .num_tokens = TokenCount(num_tokens)});
  }
  // One token more than the keys' pages hold.
  CreatedSequence CreateFrom(const std::vector<std::string>& keys) {
    const auto created = TryCreateFrom(keys, std::ssize(keys) * kPage + 1);
    EXPECT_TRUE(created.ok()) << created.status();
    return created.value_or(CreatedSequence());
  }
  int64_t Matched(const std::vector<std::string>& keys) {
    const auto matched = kv_->MatchPrefix(
        by_, cache_,
        {.keys = ViewsOf(keys), .num_tokens = TokenCount(std::ssize(keys) * kPage + 1)});
    EXPECT_TRUE(matched.ok()) << matched.status();
    return matched.ok() ? matched->value() : -1;
  }
  int64_t MatchedPages(std::string_view name, int count) {
    return Matched(Keys(name, count)) / kPage;
  }

  // Writes marks that start at `mark` into every layer and publishes the pages as `name`.
  SequenceId PublishNew(std::string_view name, int pages, uint64_t mark = 1) {
    const SequenceId id = Create();
    WriteMarks(id, 0, pages * kPage, mark);
    Publish(id, Keys(name, pages));
    return id;
  }
  // The same, and held by no sequence.
  void Cache(std::string_view name, int pages, uint64_t mark = 1) {
    ASSERT_TRUE(kv_->Free(by_, PublishNew(name, pages, mark)).ok());
  }
  void WriteMarks(SequenceId id, int64_t start, int64_t count, uint64_t mark) {
    const uint64_t step = ++last_step_;
    for (uint32_t layer = 0; layer < 3; ++layer) {
      const auto lease = Take(WriteAccess(id, start, count, layer, step));
      ASSERT_TRUE(lease.ok()) << lease.status();
      ExecuteCopies(lease->copies());
      for (int64_t t = 0; t < count; ++t) {
        WriteToken(lease->view(), lease->page_offsets(), start + t,
                   (mark + static_cast<uint64_t>(t)) * 4 + layer);
      }
    }
  }
  void ExpectMarks(SequenceId id, int64_t count, uint64_t mark) {
    for (uint32_t layer = 0; layer < 3; ++layer) {
      const auto lease = Take(ReadAccess(id, 0, count, layer));
      ASSERT_TRUE(lease.ok()) << lease.status();
      for (int64_t t = 0; t < count; ++t) {
        ASSERT_EQ(ReadToken(lease->view(), lease->page_offsets(), t),
                  (mark + static_cast<uint64_t>(t)) * 4 + layer)
            << "layer " << layer << ", token " << t;
      }
    }
  }
  int64_t Cached() { return Info().cached.value(); }
  uint64_t Evicted() { return kv_->Stats().prefix_pages_evicted_total; }
  void ExpectIntact() {
    const auto report = kv_->CheckIntegrity();
    EXPECT_TRUE(report.ok()) << report.status();
  }
};

// --- What is matched.

TEST_F(PrefixTest, AMatchedSequenceHasThePublishersBytesAndLengths) {
  Open(SmallGeometry());
  const SequenceId publisher = PublishNew("a", 3, 100);
  const CreatedSequence created = CreateFrom(Keys("a", 3));
  EXPECT_EQ(created.matched, TokenCount(12));
  EXPECT_THAT(Describe(created.sequence).layer_lengths, testing::ElementsAre(12, 12, 12));
  EXPECT_THAT(Describe(created.sequence).layer_steps, testing::Each(0));
  ExpectMarks(created.sequence, 12, 100);
  EXPECT_EQ(Used(), 3);
  EXPECT_EQ(Describe(publisher).shared_pages, PageCount(3));
}

TEST_F(PrefixTest, TheMatchIsTheLongestRunFromTheStart) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  WriteMarks(id, 0, 16, 1);
  const std::vector<std::string> keys = Keys("a", 4);
  Publish(id, {keys[1], keys[3]}, 1);  // keys[3] names page 2
  EXPECT_EQ(Matched(keys), 0);
  Publish(id, {keys[0]});
  EXPECT_EQ(Matched(keys), 8);
  EXPECT_EQ(Matched({keys[0], keys[1], keys[3]}), 12);
  EXPECT_EQ(Matched({}), 0);
}

TEST_F(PrefixTest, AtLeastOneTokenIsLeft) {
  Open(SmallGeometry());
  PublishNew("a", 2, 7);
  const auto match = [&](int keys, int64_t num_tokens) {
    return TryCreateFrom(Keys("a", keys), num_tokens)->matched.value();
  };
  EXPECT_EQ(match(2, 9), 8);
  EXPECT_EQ(match(2, 8), 7);
  EXPECT_EQ(match(1, 8), 4);
  EXPECT_EQ(match(1, 4), 3);
  EXPECT_EQ(match(0, 1), 0);
  // The last token of a matched page is written to a copy.
  const CreatedSequence created = *TryCreateFrom(Keys("a", 2), 8);
  WriteMarks(created.sequence, 7, 1, 1000);
  ExpectMarks(CreateFrom(Keys("a", 2)).sequence, 8, 7);
}

TEST_F(PrefixTest, APageOfOneTokenCanBeTheOneThatIsLeft) {
  CacheGeometry geometry = SmallGeometry();
  geometry.page_size_tokens = 1;
  Open(geometry);
  const SequenceId id = Create();
  ASSERT_TRUE(Write(id, 0, 2).ok());
  Publish(id, Keys("a", 2));
  EXPECT_EQ(TryCreateFrom(Keys("a", 1), 1)->matched, TokenCount(0));
  const CreatedSequence created = *TryCreateFrom(Keys("a", 2), 2);
  EXPECT_EQ(created.matched, TokenCount(1));
  EXPECT_EQ(Describe(created.sequence).pages, PageCount(1));
}

TEST_F(PrefixTest, TenantsAndCachesAreKeptApart) {
  Open(SmallGeometry());
  PublishNew("a", 2, 100);
  const SessionRef nobody = by_;
  by_ = kv_->OpenSession(Duration::zero(), "other", "tenant")->ref;
  EXPECT_EQ(MatchedPages("a", 2), 0);
  PublishNew("a", 2, 200);
  ExpectMarks(CreateFrom(Keys("a", 2)).sequence, 8, 200);
  by_ = nobody;
  ExpectMarks(CreateFrom(Keys("a", 2)).sequence, 8, 100);
  cache_ = OpenCache("second", SmallGeometry());
  EXPECT_EQ(MatchedPages("a", 2), 0);
}

TEST_F(PrefixTest, AResumedSessionKeepsItsTenant) {
  Open(SmallGeometry());
  const SessionGrant grant = *kv_->OpenSession(Duration::zero(), "", "tenant");
  by_ = grant.ref;
  Cache("a", 1);
  by_ = kv_->ResumeSession(grant.token, Duration::zero())->ref;
  EXPECT_EQ(MatchedPages("a", 1), 1);
  ATTND_EXPECT_CODE(kv_->OpenSession(Duration::zero(), "", std::string(129, 't')).status(),
                    kInvalidArgument);
}

TEST_F(PrefixTest, PrefixesOutliveSequenceAndSession) {
  Open(SmallGeometry());
  PublishNew("a", 2, 50);
  ASSERT_TRUE(kv_->CloseSession(by_).ok());
  EXPECT_EQ(Used(), 0);
  EXPECT_EQ(Cached(), 2);
  by_ = kv_->OpenSession(Duration::zero(), "next")->ref;
  ExpectMarks(CreateFrom(Keys("a", 2)).sequence, 8, 50);
  EXPECT_EQ(Used(), 2);
  EXPECT_EQ(Cached(), 0);
}

// --- What publishing keeps.

TEST_F(PrefixTest, APublisherWritesToACopyThoughItAloneHoldsThePage) {
  Open(SmallGeometry());
  const SequenceId id = PublishNew("a", 2, 100);
  EXPECT_EQ(Describe(id).shared_pages, PageCount(0));
  const uint64_t copied = kv_->Stats().pages_copied_total;
  WriteMarks(id, 5, 1, 900);
  EXPECT_EQ(kv_->Stats().pages_copied_total, copied + 1);
  ExpectMarks(CreateFrom(Keys("a", 2)).sequence, 8, 100);
  // It may have the copy published under another key, and page 0 under no other.
  ATTND_EXPECT_CODE(TryPublish(id, Keys("b", 1)).status(), kFailedPrecondition);
  EXPECT_EQ(kv_->Stats().pages_copied_total, copied + 1);
}

TEST_F(PrefixTest, TheFirstPublisherWins) {
  Open(SmallGeometry());
  PublishNew("a", 2, 100);
  const SequenceId second = Create();
  WriteMarks(second, 0, 12, 500);
  const PublishedPrefix published = Publish(second, Keys("a", 3));
  EXPECT_EQ(published.pages, PageCount(3));
  EXPECT_EQ(published.added, PageCount(1));
  EXPECT_EQ(Publish(second, Keys("a", 3)).added, PageCount(0));
  const CreatedSequence created = CreateFrom(Keys("a", 3));
  EXPECT_EQ(created.matched, TokenCount(12));
  ExpectMarks(created.sequence, 8, 100);
}

TEST_F(PrefixTest, IncompletePagesAreRefusedByLayerAndLength) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  ASSERT_TRUE(Write(id, 0, 7).ok());
  ASSERT_TRUE(Take(WriteAccess(id, 7, 1, /*layer=*/0)).ok());
  const absl::Status refused = TryPublish(id, Keys("a", 2)).status();
  ATTND_EXPECT_CODE(refused, kFailedPrecondition);
  EXPECT_THAT(refused.message(), HasSubstr("layer 1 holds 7 tokens"));
  EXPECT_EQ(MatchedPages("a", 2), 0);
  ATTND_EXPECT_CODE(TryPublish(id, Keys("a", 1), INT64_MAX).status(), kFailedPrecondition);
  ATTND_EXPECT_CODE(TryPublish(id, Keys("a", 1), -1).status(), kInvalidArgument);
  EXPECT_EQ(Publish(id, {}, INT64_MAX).pages, PageCount(0));
  EXPECT_EQ(Publish(id, Keys("a", 1)).added, PageCount(1));
}

TEST_F(PrefixTest, PublishingWaitsForLaunchedItems) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  ASSERT_TRUE(Write(id, 0, 4).ok());
  PageLease lease = *Take(ReadAccess(id, 0, 4));
  ATTND_EXPECT_CODE(TryPublish(id, Keys("a", 1)).status(), kFailedPrecondition);
  lease.Release();
  EXPECT_TRUE(TryPublish(id, Keys("a", 1)).ok());
}

TEST_F(PrefixTest, BadKeysAreNamed) {
  Open(SmallGeometry());
  const SequenceId id = PublishNew("a", 1);
  for (const size_t size : {size_t{0}, size_t{15}, size_t{65}}) {
    const std::vector<std::string> keys = {std::string(16, 'k'), std::string(size, 'k')};
    for (const absl::Status& refused :
         {TryPublish(id, keys).status(), TryCreateFrom(keys, 100).status()}) {
      ATTND_EXPECT_CODE(refused, kInvalidArgument);
      EXPECT_THAT(refused.message(), HasSubstr(absl::StrFormat("keys[1]: %d bytes", size)));
    }
  }
  EXPECT_TRUE(TryCreateFrom({std::string(16, 'k'), std::string(64, 'k')}, 100).ok());
  ATTND_EXPECT_CODE(TryCreateFrom(Keys("a", 2), 7).status(), kInvalidArgument);
  ATTND_EXPECT_CODE(TryCreateFrom({}, 0).status(), kInvalidArgument);
  ATTND_EXPECT_CODE(TryCreateFrom({}, INT64_MAX).status(), kInvalidArgument);
  const std::vector<std::string> many(kMaxPrefixKeys + 1, std::string(16, 'k'));
  ATTND_EXPECT_CODE(TryCreateFrom(many, INT64_MAX).status(), kInvalidArgument);
}

// --- Eviction.

TEST_F(PrefixTest, PagesThatNoSequenceHoldsAreEvictedLeastRecentlyUsedFirst) {
  Open(SmallGeometry(), /*superblocks=*/1);
  Cache("old", 3);
  Cache("used", 3);
  Cache("new", 3);
  EXPECT_EQ(Cached(), 9);
  ASSERT_TRUE(kv_->Free(by_, CreateFrom(Keys("old", 3)).sequence).ok());  // the newest now
  const SequenceId id = Create();
  ASSERT_TRUE(Write(id, 0, (kPoolPages - 9 + 4) * kPage).ok());  // four more than are free
  EXPECT_EQ(Evicted(), 4u);
  // Of one run the last page goes first: what is left of it still matches.
  EXPECT_EQ(MatchedPages("used", 3), 0);
  EXPECT_EQ(MatchedPages("new", 3), 2);
  EXPECT_EQ(MatchedPages("old", 3), 3);
  ASSERT_TRUE(Write(id, (kPoolPages - 5) * kPage, 5 * kPage).ok());
  EXPECT_EQ(Cached(), 0);
  EXPECT_EQ(Evicted(), 9u);
  ExpectIntact();
}

TEST_F(PrefixTest, AskingWhatWouldMatchIsNoUse) {
  Open(SmallGeometry(), 1);
  Cache("first", 2);
  Cache("second", 2);
  EXPECT_EQ(MatchedPages("first", 2), 2);
  ASSERT_TRUE(Write(Create(), 0, (kPoolPages - 2) * kPage).ok());
  EXPECT_EQ(MatchedPages("first", 2), 0);
  EXPECT_EQ(MatchedPages("second", 2), 2);
}

TEST_F(PrefixTest, PublishingAgainIsAUseOfTheWholeRun) {
  Open(SmallGeometry(), 1);
  Cache("first", 2);
  Cache("second", 2);
  const SequenceId id = Create();
  WriteMarks(id, 0, 8, 1);
  Publish(id, Keys("first", 2));  // known: the pages of the first publisher were used
  ASSERT_TRUE(Write(Create(), 0, (kPoolPages - 4) * kPage).ok());
  EXPECT_EQ(MatchedPages("second", 2), 0);
  EXPECT_EQ(MatchedPages("first", 2), 2);
}

TEST_F(PrefixTest, WhatASequenceHoldsIsNeverEvicted) {
  Open(SmallGeometry(), 1);
  PublishNew("held", 5, 300);
  Cache("idle", 5);
  const SequenceId holder = CreateFrom(Keys("held", 5)).sequence;
  const SequenceId id = Create();
  ASSERT_TRUE(Write(id, 0, (kPoolPages - 5) * kPage).ok());
  EXPECT_EQ(Evicted(), 5u);
  const absl::Status refused = Write(id, (kPoolPages - 5) * kPage, 1);
  ATTND_EXPECT_CODE(refused, kResourceExhausted);
  ExpectMarks(holder, 20, 300);
}

TEST_F(PrefixTest, WhatEvictionCouldGiveCountsAsFreeAndNothingIsEvictedInVain) {
  Open(SmallGeometry(), 1);
  Cache("idle", 6);
  const SequenceId id = Create();
  ASSERT_TRUE(Write(id, 0, 10 * kPage).ok());
  const absl::Status refused = kv_->Reserve(WriteAccess(id, 10 * kPage, 12 * kPage)).status();
  ATTND_EXPECT_CODE(refused, kResourceExhausted);
  EXPECT_EQ(GetErrorDetail(refused)->needed_pages, PageCount(12));
  EXPECT_EQ(GetErrorDetail(refused)->free_pages, PageCount(11));
  EXPECT_THAT(refused.message(), HasSubstr("6 in prefixes that no sequence holds"));
  EXPECT_EQ(Evicted(), 0u);
  EXPECT_EQ(MatchedPages("idle", 6), 6);
  EXPECT_TRUE(kv_->Reserve(WriteAccess(id, 10 * kPage, 11 * kPage)).ok());
  EXPECT_EQ(Evicted(), 6u);
}

TEST_F(PrefixTest, AQuotaIsMetByEviction) {
  Open(SmallGeometry(), 4, /*quota=*/10);
  Cache("idle", 6);
  const SequenceId id = Create();
  ASSERT_TRUE(Write(id, 0, 4 * kPage).ok());
  EXPECT_EQ(Evicted(), 0u);
  ASSERT_TRUE(Write(id, 4 * kPage, 2 * kPage).ok());
  EXPECT_EQ(Evicted(), 2u);
  EXPECT_EQ(MatchedPages("idle", 6), 4);
  const absl::Status refused = Write(id, 6 * kPage, 5 * kPage);
  ATTND_EXPECT_CODE(refused, kResourceExhausted);
  EXPECT_EQ(GetErrorDetail(refused)->free_pages, PageCount(4));
  EXPECT_THAT(refused.message(), HasSubstr("the page quota of 10"));
  EXPECT_EQ(Evicted(), 2u);
}

TEST_F(PrefixTest, AMatchIsNotEvictedByItsOwnSequence) {
  Open(SmallGeometry(), 1);
  Cache("idle", 5, 40);
  const SequenceId id = CreateFrom(Keys("idle", 5)).sequence;
  ASSERT_TRUE(Write(id, 5 * kPage, (kPoolPages - 5) * kPage).ok());
  EXPECT_EQ(Evicted(), 0u);
  ExpectMarks(id, 20, 40);
  ATTND_EXPECT_CODE(Write(id, kPoolPages * kPage, 1), kResourceExhausted);
}

TEST_F(PrefixTest, AnotherCacheGetsASlabWhereEvictionEmptiesOne) {
  Open(OnePageSlabGeometry(), /*superblocks=*/4);
  const CacheId first = cache_;
  const auto cache_page = [&](std::string_view name) {
    const SequenceId id = Create();
    ASSERT_TRUE(Write(id, 0, 256).ok());
    Publish(id, Keys(name, 1));
    ASSERT_TRUE(kv_->Free(by_, id).ok());
  };
  const auto matched = [&](std::string_view name) {
    const std::vector<std::string> keys = Keys(name, 1);
    return kv_->MatchPrefix(by_, cache_, {.keys = ViewsOf(keys), .num_tokens = TokenCount(257)})
        ->value();
  };
  cache_page("a");
  cache_page("b");
  cache_page("c");
  cache_ = OpenCache("second", OnePageSlabGeometry());
  const SequenceId id = Create();
  ASSERT_TRUE(Write(id, 0, 256).ok());  // the last free slab
  EXPECT_EQ(Evicted(), 0u);
  ASSERT_TRUE(Write(id, 256, 256).ok());
  EXPECT_EQ(Evicted(), 1u);
  EXPECT_EQ(kv_->Stats().slabs_moved_total, 1u);
  // Two can be had and not three: nothing is evicted for these.
  const absl::Status refused = kv_->Reserve(WriteAccess(id, 512, 3 * 256)).status();
  ATTND_EXPECT_CODE(refused, kResourceExhausted);
  EXPECT_EQ(GetErrorDetail(refused)->free_pages, PageCount(2));
  EXPECT_EQ(Evicted(), 1u);
  cache_ = first;
  EXPECT_EQ(matched("a"), 0);
  EXPECT_EQ(matched("b"), 256);
  EXPECT_EQ(matched("c"), 256);
  ExpectIntact();
}

TEST_F(PrefixTest, AHeldPageKeepsItsSlabAndTheOthersInIt) {
  Open(SmallGeometry(), /*superblocks=*/1);
  const SequenceId held = PublishNew("held", 1);
  Cache("idle", 5);
  cache_ = OpenCache("second", SmallGeometry());
  ATTND_EXPECT_CODE(Write(Create(), 0, 1), kResourceExhausted);
  EXPECT_EQ(Evicted(), 0u);
  ASSERT_TRUE(kv_->Free(by_, held).ok());
  EXPECT_TRUE(Write(Create(), 0, 1).ok());
  EXPECT_EQ(Evicted(), 6u);
}

TEST_F(PrefixTest, AnotherCachesOlderPrefixesGoBeforeOnesOwn) {
  Open(OnePageSlabGeometry(), 2);
  const CacheId first = cache_;
  const auto cache_page = [&](std::string_view name) {
    const SequenceId id = Create();
    ASSERT_TRUE(Write(id, 0, 256).ok());
    Publish(id, Keys(name, 1));
    ASSERT_TRUE(kv_->Free(by_, id).ok());
  };
  cache_page("old");
  cache_ = OpenCache("second", OnePageSlabGeometry());
  cache_page("young");
  ASSERT_TRUE(Write(Create(), 0, 1).ok());
  EXPECT_EQ(Cached(), 1);
  EXPECT_EQ(Info(first).cached, PageCount(0));
  ASSERT_TRUE(Write(Create(), 0, 1).ok());
  EXPECT_EQ(Cached(), 0);
}

TEST_F(PrefixTest, ClosingACacheDropsItsPrefixes) {
  Open(SmallGeometry(), 1);
  Cache("a", 4);
  ASSERT_TRUE(kv_->CloseCache(cache_).ok());
  EXPECT_EQ(kv_->Stats().pool_free_bytes, kv_->Stats().pool_bytes);
  EXPECT_EQ(Evicted(), 0u);
  cache_ = OpenCache("main", SmallGeometry());
  EXPECT_EQ(MatchedPages("a", 4), 0);
}

TEST_F(PrefixTest, CountersSayWhatWasAskedAndMatched) {
  Open(SmallGeometry());
  Cache("a", 2);
  CreateFrom(Keys("a", 2));
  ASSERT_TRUE(TryCreateFrom(Keys("b", 2), 11).ok());
  Create();
  EXPECT_EQ(kv_->Stats().prefix_tokens_queried_total, 20u);
  EXPECT_EQ(kv_->Stats().prefix_tokens_matched_total, 8u);
}

TEST_F(PrefixTest, AQueuedWriteHasItsPromiseWhateverIsPublishedAndEvicted) {
  Open(SmallGeometry(), 1);
  Cache("idle", 6);
  const SequenceId id = Create();
  const LayerAccess access = WriteAccess(id, 0, kPoolPages * kPage);
  absl::StatusOr<PageReservation> reservation = kv_->Reserve(access);
  ASSERT_TRUE(reservation.ok()) << reservation.status();
  ATTND_EXPECT_CODE(kv_->Reserve(WriteAccess(Create(), 0, 1)).status(), kResourceExhausted);
  EXPECT_TRUE(kv_->Pin(access, *std::move(reservation)).ok());
}

}  // namespace
}  // namespace attnd
