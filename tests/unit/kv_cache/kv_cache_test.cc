// SPDX-License-Identifier: Apache-2.0
//
// Caches, sessions and sequences through the facade; items have item_access_test.cc.
#include "kv_cache/kv_cache.h"

#include <string>
#include <utility>
#include <vector>

#include "tests/unit/kv_cache/cache_fixture.h"

namespace attnd {
namespace {

class KvCacheTest : public CacheFixture {};

// --- Caches.

TEST_F(KvCacheTest, OpeningACacheAgainFindsIt) {
  Open(SmallGeometry(), 4, /*quota=*/50);
  const auto again = kv_->OpenCache("main", SmallGeometry(), PageCount(0));
  EXPECT_FALSE(again->created);
  EXPECT_EQ(again->info.cache, cache_);
  EXPECT_EQ(again->info.quota, PageCount(50));
  EXPECT_EQ(kv_->OpenCache("main", SmallGeometry(), PageCount(60))->info.quota, PageCount(60));
}

TEST_F(KvCacheTest, AnotherGeometryIsRefusedByTheFieldThatDiffers) {
  Open(SmallGeometry());
  const auto refused = [&](const CacheGeometry& other, const std::string& difference) {
    const absl::Status status = kv_->OpenCache("main", other, PageCount(0)).status();
    ATTND_EXPECT_CODE(status, kFailedPrecondition);
    EXPECT_NE(status.message().find("geometry." + difference), std::string::npos) << status;
  };
  const std::vector<std::pair<int32_t CacheGeometry::*, std::string>> fields = {
      {&CacheGeometry::num_layers, "num_layers 3, not 2"},
      {&CacheGeometry::num_query_heads, "num_query_heads 8, not 4"},
      {&CacheGeometry::num_kv_heads, "num_kv_heads 4, not 2"},
      {&CacheGeometry::head_dim_k, "head_dim_k 256, not 128"},
      {&CacheGeometry::head_dim_v, "head_dim_v 256, not 128"},
      {&CacheGeometry::page_size_tokens, "page_size_tokens 4, not 2"}};
  for (const auto& [field, difference] : fields) {
    CacheGeometry other = SmallGeometry();
    other.*field = (other.*field + 1) / 2;
    refused(other, difference);
  }
  CacheGeometry other = SmallGeometry();
  other.kv_dtype = DType::kBF16;
  refused(other, "kv_dtype f32, not bf16");
}

TEST_F(KvCacheTest, TooManyCachesAreRefusedUntilOneCloses) {
  KvCache::Options options;
  options.max_caches = 2;
  Open(SmallGeometry(), 4, 0, options);
  const CacheId second = OpenCache("second", SmallGeometry());
  ATTND_EXPECT_CODE(kv_->OpenCache("third", SmallGeometry(), PageCount(0)).status(),
                    kResourceExhausted);
  ASSERT_TRUE(kv_->CloseCache(second).ok());
  EXPECT_TRUE(kv_->OpenCache("third", SmallGeometry(), PageCount(0)).ok());
}

TEST_F(KvCacheTest, BadCacheNamesQuotasAndGeometriesAreInvalid) {
  Open(SmallGeometry());
  for (const std::string& name : {std::string(), std::string(129, 'a'), std::string("a b"),
                                  std::string("a/b"), std::string("a\0b", 3)}) {
    ATTND_EXPECT_CODE(kv_->OpenCache(name, SmallGeometry(), PageCount(0)).status(),
                      kInvalidArgument);
  }
  ATTND_EXPECT_CODE(kv_->OpenCache("q", SmallGeometry(), PageCount(-1)).status(), kInvalidArgument);
  ATTND_EXPECT_CODE(kv_->OpenCache("g", CacheGeometry(), PageCount(0)).status(), kInvalidArgument);
  EXPECT_TRUE(kv_->OpenCache("Ok-1_2.3", SmallGeometry(), PageCount(0)).ok());
}

TEST_F(KvCacheTest, SlabLargerThanThePoolIsExhausted) {
  Open(SmallGeometry(), 2);
  CacheGeometry huge = SmallGeometry();
  huge.num_layers = 1024;
  const absl::Status status = kv_->OpenCache("huge", huge, PageCount(0)).status();
  ATTND_EXPECT_CODE(status, kResourceExhausted);
  EXPECT_EQ(GetErrorDetail(status)->reason, ErrorReason::kPagesExhausted);
}

TEST_F(KvCacheTest, CacheClosesOnceItsSequencesAreFree) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  ASSERT_TRUE(Write(id, 0, 9).ok());
  ATTND_EXPECT_CODE(kv_->CloseCache(cache_), kFailedPrecondition);
  ASSERT_TRUE(kv_->Free(by_, id).ok());
  EXPECT_TRUE(kv_->CloseCache(cache_).ok());
  ATTND_EXPECT_CODE(kv_->CloseCache(cache_), kNotFound);
  EXPECT_EQ(kv_->Stats().pool_free_bytes, kv_->Stats().pool_bytes);
  const CacheId again = OpenCache("main", SmallGeometry());
  EXPECT_NE(again, cache_);
  ATTND_EXPECT_CODE(kv_->CreateSequence(by_, cache_, "").status(), kNotFound);
}

TEST_F(KvCacheTest, EmptySlabsMoveToTheCacheThatNeedsThem) {
  Open(SmallGeometry(), 4);
  const CacheId other = OpenCache("other", OnePageSlabGeometry());
  const SequenceId id = Create();
  ASSERT_TRUE(Write(id, 0, 4 * 84).ok());  // the whole pool
  const SequenceId wants = kv_->CreateSequence(by_, other, "").value();
  ATTND_EXPECT_CODE(Take(WriteAccess(wants, 0, 1)).status(), kResourceExhausted);
  ASSERT_TRUE(kv_->Truncate(by_, id, TokenCount(4 * 42)).ok());
  EXPECT_EQ(Info().num_slabs, 4);
  EXPECT_TRUE(Take(WriteAccess(wants, 0, 512)).ok());
  EXPECT_EQ(Info().num_slabs, 2);
  EXPECT_EQ(kv_->Stats().slabs_moved_total, 2u);
  ATTND_EXPECT_CODE(Take(WriteAccess(wants, 512, 1)).status(), kResourceExhausted);
}

TEST_F(KvCacheTest, SlabsWithPromisedPagesStay) {
  Open(SmallGeometry(), 1);
  const CacheId other = OpenCache("other", OnePageSlabGeometry());
  const LayerAccess access = WriteAccess(Create(), 0, 4);
  PageReservation reservation = kv_->Reserve(access).value();
  const SequenceId wants = kv_->CreateSequence(by_, other, "").value();
  ATTND_EXPECT_CODE(Take(WriteAccess(wants, 0, 1)).status(), kResourceExhausted);
  EXPECT_TRUE(kv_->Pin(access, std::move(reservation)).ok());
}

TEST_F(KvCacheTest, HopelessRequestTakesNoSlabsFromOthers) {
  Open(SmallGeometry(), 4);
  const CacheId other = OpenCache("other", OnePageSlabGeometry());
  const SequenceId id = Create();
  ASSERT_TRUE(Write(id, 0, 4 * 42).ok());
  ASSERT_TRUE(kv_->Truncate(by_, id, TokenCount(0)).ok());
  const SequenceId wants = kv_->CreateSequence(by_, other, "").value();
  const absl::Status status = Take(WriteAccess(wants, 0, 256 * 5)).status();
  ATTND_EXPECT_CODE(status, kResourceExhausted);
  EXPECT_EQ(GetErrorDetail(status)->needed_pages, PageCount(5));
  EXPECT_EQ(GetErrorDetail(status)->free_pages, PageCount(4));
  EXPECT_EQ(Info().num_slabs, 2);
}

// --- Sessions.

TEST_F(KvCacheTest, ResumedSessionFindsItsSequencesAndShutsTheFormerClientOut) {
  Open(SmallGeometry());
  const SequenceId id = Create("tokens");
  ASSERT_TRUE(Write(id, 0, 9).ok());
  const SessionGrant resumed = kv_->ResumeSession(session_.token, Duration::zero()).value();
  ATTND_EXPECT_CODE(Take(WriteAccess(id, 9, 1)).status(), kAborted);
  ATTND_EXPECT_CODE(kv_->CloseSession(by_), kAborted);
  by_ = resumed.ref;
  EXPECT_EQ(Describe(id).client_state, "tokens");
  EXPECT_EQ(Describe(id).layer_lengths, (std::vector<int64_t>{9, 9, 9}));
  EXPECT_TRUE(Take(WriteAccess(id, 9, 1)).ok());
}

TEST_F(KvCacheTest, AnswerToAResumeListsSequencesWithoutUsingTheEpoch) {
  Open(SmallGeometry());
  Create("tokens");
  const SessionGrant resumed = kv_->ResumeSession(session_.token, Duration::zero()).value();
  const std::vector<SequenceInfo> sequences = kv_->ResumedSequences(resumed.ref).value();
  ASSERT_EQ(sequences.size(), 1u);
  EXPECT_EQ(sequences[0].client_state, "tokens");
  ATTND_EXPECT_CODE(kv_->ResumedSequences(by_).status(), kAborted);
  EXPECT_TRUE(kv_->ResumeSession(session_.token, Duration::zero()).ok());
}

TEST_F(KvCacheTest, ItemReservedBeforeAResumeIsAbortedAndGivesItsPromiseBack) {
  Open(SmallGeometry());
  const LayerAccess access = WriteAccess(Create(), 0, 9);
  PageReservation reservation = kv_->Reserve(access).value();
  by_ = kv_->ResumeSession(session_.token, Duration::zero())->ref;
  ATTND_EXPECT_CODE(kv_->Pin(access, std::move(reservation)).status(), kAborted);
  EXPECT_EQ(Reserved(), 0);
  EXPECT_EQ(Used(), 0);
}

TEST_F(KvCacheTest, ClosingASessionGivesAllPagesBack) {
  Open(SmallGeometry());
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(Write(Create(), 0, 9).ok());
  const SequenceId id = Create();
  PageReservation reservation = kv_->Reserve(WriteAccess(id, 0, 9)).value();
  ASSERT_TRUE(kv_->CloseSession(by_).ok());
  EXPECT_EQ(Used(), 0);
  EXPECT_EQ(Reserved(), 0);
  EXPECT_EQ(Info().num_sequences, 0);
  ATTND_EXPECT_CODE(kv_->CloseSession(by_), kNotFound);
  ATTND_EXPECT_CODE(kv_->ResumeSession(session_.token, Duration::zero()).status(), kNotFound);
}

TEST_F(KvCacheTest, ExpiredSessionServesNoOneAndIsClosedLater) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  ASSERT_TRUE(Write(id, 0, 9).ok());
  PageLease lease = Take(ReadAccess(id, 0, 1)).value();
  clock_.Advance(session_.lease);
  ATTND_EXPECT_CODE(kv_->PlaceOf(by_, id).status(), kNotFound);
  ATTND_EXPECT_CODE(kv_->Reserve(WriteAccess(id, 9, 1)).status(), kNotFound);
  ATTND_EXPECT_CODE(kv_->Pin(WriteAccess(id, 9, 1), PageReservation()).status(), kNotFound);
  ATTND_EXPECT_CODE(kv_->RenewLease(by_).status(), kNotFound);
  ATTND_EXPECT_CODE(kv_->Free(by_, id), kNotFound);
  ASSERT_EQ(kv_->ExpiredSessions().size(), 1u);
  ATTND_EXPECT_CODE(kv_->CloseSession(kv_->ExpiredSessions()[0]), kFailedPrecondition);
  lease.Release();
  EXPECT_TRUE(kv_->CloseSession(kv_->ExpiredSessions()[0]).ok());
  EXPECT_EQ(Used(), 0);
}

TEST_F(KvCacheTest, EveryCallOfASessionRenewsItsLease) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  const Duration almost = session_.lease - Duration(1);
  clock_.Advance(almost);
  EXPECT_TRUE(kv_->Reserve(WriteAccess(id, 0, 1)).ok());
  clock_.Advance(almost);
  EXPECT_TRUE(kv_->Describe(by_, id).ok());
  clock_.Advance(almost);
  EXPECT_EQ(kv_->RenewLease(by_).value(), session_.lease);
  clock_.Advance(almost);
  EXPECT_TRUE(kv_->ExpiredSessions().empty());
  EXPECT_EQ(kv_->ListSessions().at(0).lease_remaining, Duration(1));
}

TEST_F(KvCacheTest, SequenceOfAnotherSessionLooksLikeNone) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  const SequenceId freed = Create();
  ASSERT_TRUE(kv_->Free(by_, freed).ok());
  by_ = kv_->OpenSession(Duration::zero(), "other")->ref;
  for (SequenceId stale : {id, freed, SequenceId()}) {
    const std::string message = "sequence " + ToString(stale) + " not found";
    for (const absl::Status& status :
         {kv_->Describe(by_, stale).status(), kv_->Free(by_, stale),
          kv_->Truncate(by_, stale, TokenCount(0)), kv_->Fork(by_, stale, std::nullopt).status(),
          kv_->PlaceOf(by_, stale).status(), kv_->SetClientState(by_, stale, 0, "").status(),
          kv_->Reserve(WriteAccess(stale, 0, 1)).status(),
          kv_->Pin(WriteAccess(stale, 0, 1), PageReservation()).status()}) {
      ATTND_EXPECT_CODE(status, kNotFound);
      EXPECT_EQ(status.message(), message);
      EXPECT_EQ(GetErrorDetail(status)->reason, ErrorReason::kStaleId);
    }
  }
}

// --- Sequences.

TEST_F(KvCacheTest, ForkSharesPagesAndCopiesWhatBelongsToThem) {
  Open(SmallGeometry());
  const SequenceId parent = Create("state");
  ASSERT_TRUE(Take(WriteAccess(parent, 0, 10, 0)).ok());
  ASSERT_TRUE(Take(WriteAccess(parent, 0, 3, 1)).ok());
  const SequenceId child = kv_->Fork(by_, parent, TokenCount(5)).value();
  const SequenceInfo info = Describe(child);
  EXPECT_EQ(info.layer_lengths, (std::vector<int64_t>{5, 3, 0}));
  EXPECT_EQ(info.layer_steps, (std::vector<uint64_t>{0, 0, 0}));
  EXPECT_EQ(info.pages, PageCount(2));
  EXPECT_EQ(info.shared_pages, PageCount(2));
  EXPECT_EQ(info.client_state, "state");
  EXPECT_EQ(info.client_state_version, 1u);
  EXPECT_EQ(Used(), 3);
  ASSERT_TRUE(kv_->Free(by_, parent).ok());
  EXPECT_EQ(Used(), 2);
  EXPECT_EQ(Describe(child).shared_pages, PageCount(0));
}

TEST_F(KvCacheTest, ForkBeyondTheLongestLayerIsRefused) {
  Open(SmallGeometry());
  const SequenceId parent = Create();
  ASSERT_TRUE(Take(WriteAccess(parent, 0, 10, 1)).ok());
  EXPECT_TRUE(kv_->Fork(by_, parent, TokenCount(10)).ok());
  EXPECT_TRUE(kv_->Fork(by_, parent, TokenCount(0)).ok());
  ATTND_EXPECT_CODE(kv_->Fork(by_, parent, TokenCount(11)).status(), kFailedPrecondition);
  ATTND_EXPECT_CODE(kv_->Fork(by_, parent, TokenCount(-1)).status(), kInvalidArgument);
}

TEST_F(KvCacheTest, TruncateClipsEachLayerAndFreesPages) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  ASSERT_TRUE(Take(WriteAccess(id, 0, 20, 0)).ok());
  ASSERT_TRUE(Take(WriteAccess(id, 0, 3, 1)).ok());
  ASSERT_TRUE(kv_->Truncate(by_, id, TokenCount(5)).ok());
  EXPECT_EQ(Describe(id).layer_lengths, (std::vector<int64_t>{5, 3, 0}));
  EXPECT_EQ(Used(), 2);
  ASSERT_TRUE(kv_->Truncate(by_, id, TokenCount(100)).ok());
  EXPECT_EQ(Describe(id).layer_lengths[0], 5);
  ATTND_EXPECT_CODE(kv_->Truncate(by_, id, TokenCount(-1)), kInvalidArgument);
}

TEST_F(KvCacheTest, WhatNeedsAnUnpinnedSequenceIsRefusedWhileItIsPinned) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  ASSERT_TRUE(Write(id, 0, 9).ok());
  PageLease lease = Take(ReadAccess(id, 0, 1)).value();
  ATTND_EXPECT_CODE(kv_->Fork(by_, id, std::nullopt).status(), kFailedPrecondition);
  ATTND_EXPECT_CODE(kv_->Truncate(by_, id, TokenCount(0)), kFailedPrecondition);
  ATTND_EXPECT_CODE(kv_->Free(by_, id), kFailedPrecondition);
  ATTND_EXPECT_CODE(kv_->CloseSession(by_), kFailedPrecondition);
  EXPECT_EQ(Describe(id).layer_lengths[0], 9);
  lease.Release();
  EXPECT_TRUE(kv_->Fork(by_, id, std::nullopt).ok());
  EXPECT_TRUE(kv_->Free(by_, id).ok());
}

TEST_F(KvCacheTest, ClientStateIsReplacedOnlyAtTheExpectedVersion) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  EXPECT_EQ(Describe(id).client_state_version, 0u);
  EXPECT_EQ(kv_->SetClientState(by_, id, 0, "a").value(), 1u);
  const absl::Status status = kv_->SetClientState(by_, id, 0, "b").status();
  ATTND_EXPECT_CODE(status, kAborted);
  EXPECT_NE(status.message().find("has version 1"), std::string::npos) << status;
  EXPECT_EQ(Describe(id).client_state, "a");
  const SequenceId child = kv_->Fork(by_, id, std::nullopt).value();
  EXPECT_EQ(kv_->SetClientState(by_, id, 1, "").value(), 2u);
  EXPECT_EQ(Describe(child).client_state, "a");
}

TEST_F(KvCacheTest, ClientStateBeyondOneMebibyteIsInvalid) {
  Open(SmallGeometry());
  const std::string largest(kMaxClientStateBytes, 'x');
  const SequenceId id = Create(largest);
  EXPECT_EQ(Describe(id).client_state_version, 1u);
  ATTND_EXPECT_CODE(kv_->SetClientState(by_, id, 1, largest + "x").status(), kInvalidArgument);
  ATTND_EXPECT_CODE(kv_->CreateSequence(by_, cache_, largest + "x").status(), kInvalidArgument);
}

TEST_F(KvCacheTest, ListsTheSequencesOfTheSessionWithoutTheirState) {
  Open(SmallGeometry());
  const SequenceId a = Create("a"), b = Create("b");
  const SessionRef other = kv_->OpenSession(Duration::zero(), "other")->ref;
  ASSERT_TRUE(kv_->CreateSequence(other, cache_, "").ok());
  const std::vector<SequenceInfo> listed = kv_->ListSequences(by_).value();
  ASSERT_EQ(listed.size(), 2u);
  EXPECT_EQ(listed[0].sequence, a);
  EXPECT_EQ(listed[1].sequence, b);
  EXPECT_TRUE(listed[0].client_state.empty());
  EXPECT_EQ(listed[0].client_state_version, 1u);
}

TEST_F(KvCacheTest, TooManySequencesAreRefused) {
  KvCache::Options options;
  options.max_sequences = 2;
  Open(SmallGeometry(), 4, 0, options);
  const SequenceId id = Create();
  Create();
  ATTND_EXPECT_CODE(kv_->CreateSequence(by_, cache_, "").status(), kResourceExhausted);
  ATTND_EXPECT_CODE(kv_->Fork(by_, id, std::nullopt).status(), kResourceExhausted);
}

// --- Statistics.

TEST_F(KvCacheTest, StatsCountPagesSlabsAndMemory) {
  Open(SmallGeometry(), 4);
  ASSERT_TRUE(Write(Create(), 0, 9).ok());
  const SequenceId id = Create();
  PageReservation reservation = kv_->Reserve(WriteAccess(id, 0, 8)).value();
  const KvCacheStats stats = kv_->Stats();
  EXPECT_EQ(stats.pool_bytes, Bytes(8u << 20));
  EXPECT_EQ(stats.pool_free_bytes, Bytes(6u << 20));
  ASSERT_EQ(stats.pools.size(), 1u);
  EXPECT_EQ(stats.pools[0].largest_free_run_superblocks, 3);
  EXPECT_EQ(stats.num_sessions, 1);
  EXPECT_EQ(stats.num_sequences, 2);
  ASSERT_EQ(stats.caches.size(), 1u);
  EXPECT_EQ(stats.caches[0].used, PageCount(3));
  EXPECT_EQ(stats.caches[0].free, PageCount(18));
  EXPECT_EQ(stats.caches[0].reserved, PageCount(2));
  EXPECT_EQ(stats.caches[0].num_slabs, 1);
  EXPECT_EQ(kv_->CheckIntegrity()->pages_checked, 21);
  EXPECT_EQ(kv_->CheckIntegrity()->sequences_checked, 2);
}

}  // namespace
}  // namespace attnd
