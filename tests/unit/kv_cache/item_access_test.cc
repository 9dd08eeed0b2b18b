// SPDX-License-Identifier: Apache-2.0
//
// Reserve and Pin: positions, steps, promises, copy-on-write.
#include <algorithm>
#include <vector>

#include "tests/unit/kv_cache/cache_fixture.h"

namespace attnd {
namespace {

class ItemAccessTest : public CacheFixture {};

std::vector<uint64_t> Offsets(const PageLease& lease) {
  return {lease.page_offsets().begin(), lease.page_offsets().end()};
}

TEST_F(ItemAccessTest, WriteExtendsItsLayerOnly) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  PageLease lease = Take(WriteAccess(id, 0, 10, 1)).value();
  EXPECT_EQ(lease.page_offsets().size(), 3);
  EXPECT_EQ(lease.view().kv_len, TokenCount(10));
  EXPECT_EQ(lease.view().layer_length, TokenCount(10));
  EXPECT_FALSE(lease.replayed());
  EXPECT_EQ(lease.view().layer_base,
            memory_->span().data() + lease.view().layout.layer_stride_bytes);
  EXPECT_EQ(Describe(id).layer_lengths, (std::vector<int64_t>{0, 10, 0}));
  EXPECT_EQ(Describe(id).pages, PageCount(3));
}

TEST_F(ItemAccessTest, HoleIsRefusedAndChangesNothing) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  ASSERT_TRUE(Write(id, 0, 5).ok());
  ATTND_EXPECT_CODE(Take(WriteAccess(id, 6, 1)).status(), kFailedPrecondition);
  EXPECT_EQ(Describe(id).layer_lengths[0], 5);
  EXPECT_EQ(Used(), 2);
  EXPECT_EQ(Reserved(), 0);
}

TEST_F(ItemAccessTest, WriteBelowTheLengthShortensAndFreesPagesBeyondAllLayers) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  ASSERT_TRUE(Write(id, 0, 20).ok());
  EXPECT_EQ(Used(), 5);
  ASSERT_TRUE(Take(WriteAccess(id, 6, 1, 0)).ok());
  EXPECT_EQ(Describe(id).layer_lengths, (std::vector<int64_t>{7, 20, 20}));
  EXPECT_EQ(Used(), 5);  // layers 1 and 2 still need them
  ASSERT_TRUE(Take(WriteAccess(id, 6, 1, 1)).ok());
  ASSERT_TRUE(Take(WriteAccess(id, 6, 1, 2)).ok());
  EXPECT_EQ(Used(), 2);
}

TEST_F(ItemAccessTest, SameStepAgainIsReplayedWithoutChange) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  const LayerAccess first = WriteAccess(id, 0, 6, 0, 7);
  const std::vector<uint64_t> offsets = Offsets(Take(first).value());
  PageLease replay = Take(first).value();
  EXPECT_TRUE(replay.replayed());
  EXPECT_EQ(Offsets(replay), offsets);
  EXPECT_EQ(replay.view().kv_len, TokenCount(6));
  EXPECT_EQ(Describe(id).layer_steps[0], 7);
}

TEST_F(ItemAccessTest, SameStepElsewhereIsRefused) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  ASSERT_TRUE(Take(WriteAccess(id, 0, 6, 0, 7)).ok());
  ATTND_EXPECT_CODE(Take(WriteAccess(id, 0, 5, 0, 7)).status(), kFailedPrecondition);
  ATTND_EXPECT_CODE(Take(WriteAccess(id, 1, 6, 0, 7)).status(), kFailedPrecondition);
}

TEST_F(ItemAccessTest, ReplayOfTruncatedTokensIsRefused) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  ASSERT_TRUE(Take(WriteAccess(id, 0, 6, 0, 7)).ok());
  ASSERT_TRUE(kv_->Truncate(by_, id, TokenCount(5)).ok());
  ATTND_EXPECT_CODE(Take(WriteAccess(id, 0, 6, 0, 7)).status(), kFailedPrecondition);
}

TEST_F(ItemAccessTest, LowerStepIsAborted) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  ASSERT_TRUE(Take(WriteAccess(id, 0, 6, 0, 7)).ok());
  const absl::Status status = Take(WriteAccess(id, 6, 1, 0, 6)).status();
  ATTND_EXPECT_CODE(status, kAborted);
  EXPECT_EQ(GetErrorDetail(status)->reason, ErrorReason::kSuperseded);
}

TEST_F(ItemAccessTest, MalformedAccessIsInvalid) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  LayerAccess step_zero = WriteAccess(id, 0, 1);
  step_zero.step = 0;
  LayerAccess write_with_kv_length = WriteAccess(id, 0, 1);
  write_with_kv_length.kv_length = TokenCount(1);
  LayerAccess negative_kv_length = ReadAccess(id, 0, 1);
  negative_kv_length.kv_length = TokenCount(-1);
  for (const LayerAccess& access :
       {step_zero, write_with_kv_length, negative_kv_length, WriteAccess(id, -1, 1),
        WriteAccess(id, 0, 0), WriteAccess(id, 0, -1), WriteAccess(id, 0, 1, 3),
        WriteAccess(id, INT64_MAX, 1), WriteAccess(id, 1, INT64_MAX),
        WriteAccess(id, kMaxSequenceTokens, 1)}) {
    ATTND_EXPECT_CODE(kv_->Reserve(access).status(), kInvalidArgument);
    ATTND_EXPECT_CODE(kv_->Pin(access, PageReservation()).status(), kInvalidArgument);
  }
}

TEST_F(ItemAccessTest, ReadsReachToTheLengthAndNoFurther) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  ASSERT_TRUE(Write(id, 0, 10).ok());
  EXPECT_EQ(Take(ReadAccess(id, 9, 1))->page_offsets().size(), 3);
  ATTND_EXPECT_CODE(Take(ReadAccess(id, 9, 2)).status(), kFailedPrecondition);
  LayerAccess prefix = ReadAccess(id, 100, 1);
  prefix.kv_length = TokenCount(4);
  EXPECT_EQ(Take(prefix)->page_offsets().size(), 1);
  prefix.kv_length = TokenCount(0);
  EXPECT_EQ(Take(prefix)->page_offsets().size(), 0);
  prefix.kv_length = TokenCount(11);
  ATTND_EXPECT_CODE(Take(prefix).status(), kFailedPrecondition);
}

TEST_F(ItemAccessTest, ItemsOfAllLayersPromiseANewPageOnce) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  std::vector<PageReservation> reservations;
  for (uint32_t layer = 0; layer < 3; ++layer) {
    reservations.push_back(kv_->Reserve(WriteAccess(id, 0, 5, layer, 1)).value());
    EXPECT_EQ(Reserved(), 2);
  }
  reservations.push_back(kv_->Reserve(WriteAccess(id, 5, 4, 0, 2)).value());
  EXPECT_EQ(Reserved(), 3);
  reservations.clear();
  EXPECT_EQ(Reserved(), 0);
}

TEST_F(ItemAccessTest, LeftoverPromisesReturnWithTheLastReservation) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  const LayerAccess first = WriteAccess(id, 0, 4), second = WriteAccess(id, 4, 8);
  PageReservation a = kv_->Reserve(first).value(), b = kv_->Reserve(second).value();
  EXPECT_EQ(Reserved(), 3);
  ASSERT_TRUE(kv_->Pin(first, std::move(a)).ok());
  EXPECT_EQ(Reserved(), 2);
  b.Release();
  EXPECT_EQ(Reserved(), 0);
  EXPECT_EQ(Used(), 1);
}

TEST_F(ItemAccessTest, PromisedPagesAreNeverTakenByAnother) {
  Open(SmallGeometry(), 4, /*quota=*/4);
  const SequenceId a = Create(), b = Create();
  const LayerAccess access = WriteAccess(a, 0, 12);
  PageReservation reservation = kv_->Reserve(access).value();
  const LayerAccess other = WriteAccess(b, 0, 8);
  ATTND_EXPECT_CODE(kv_->Reserve(other).status(), kResourceExhausted);
  ATTND_EXPECT_CODE(kv_->Pin(other, PageReservation()).status(), kResourceExhausted);
  EXPECT_TRUE(kv_->Pin(access, std::move(reservation)).ok());
}

TEST_F(ItemAccessTest, PinWithoutAPromiseFallsBackToFreePages) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  EXPECT_TRUE(kv_->Pin(WriteAccess(id, 0, 9), PageReservation()).ok());
  EXPECT_EQ(Used(), 3);
}

TEST_F(ItemAccessTest, ReservationOfAHoleIsBoundedByItsOwnTokens) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  ASSERT_TRUE(Write(id, 0, 4).ok());
  PageReservation reservation = kv_->Reserve(WriteAccess(id, 1 << 30, 5)).value();
  EXPECT_EQ(Reserved(), 2);
}

TEST_F(ItemAccessTest, AppliedStepReservesNothing) {
  Open(SmallGeometry(), 1, /*quota=*/2);
  const SequenceId id = Create();
  const LayerAccess access = WriteAccess(id, 0, 8);
  ASSERT_TRUE(Take(access).ok());
  ASSERT_TRUE(kv_->Fork(by_, id, std::nullopt).ok());  // a write would now copy, beyond the quota
  EXPECT_FALSE(kv_->Reserve(access)->active());
  EXPECT_TRUE(Take(access)->replayed());
  ATTND_EXPECT_CODE(Take(WriteAccess(id, 0, 8)).status(), kResourceExhausted);
}

TEST_F(ItemAccessTest, ExhaustionSaysNeededFreeAndWhatWouldFreeIt) {
  Open(SmallGeometry(), 4, /*quota=*/10);
  const SequenceId a = Create(), b = Create();
  ASSERT_TRUE(Write(a, 0, 20).ok());
  ASSERT_TRUE(Write(b, 0, 8).ok());
  const absl::Status status = Take(WriteAccess(b, 8, 16)).status();
  ATTND_EXPECT_CODE(status, kResourceExhausted);
  for (const char* part : {"needs 4 pages", "3 are free", "page quota of 10",
                           "'main' holds 7 pages", "2 sequences", "holds 5"}) {
    EXPECT_NE(status.message().find(part), absl::string_view::npos) << part << " in " << status;
  }
  const ErrorDetail detail = GetErrorDetail(status).value();
  EXPECT_EQ(detail.reason, ErrorReason::kPagesExhausted);
  EXPECT_EQ(detail.needed_pages, PageCount(4));
  EXPECT_EQ(detail.free_pages, PageCount(3));
}

TEST_F(ItemAccessTest, FailedPinLeavesNothingBehind) {
  Open(SmallGeometry(), 1);
  const SequenceId a = Create(), b = Create();
  ASSERT_TRUE(Write(a, 0, 4 * 18).ok());  // 18 of 21 pages
  const CacheInfo before = Info();
  for (int i = 0; i < 100; ++i) {
    ATTND_EXPECT_CODE(kv_->Pin(WriteAccess(b, 0, 16), PageReservation()).status(),
                      kResourceExhausted);
  }
  EXPECT_EQ(Info().used, before.used);
  EXPECT_EQ(Info().free, before.free);
  EXPECT_EQ(Describe(b).layer_lengths[0], 0);
  EXPECT_EQ(Describe(b).layer_steps[0], 0);
  EXPECT_TRUE(kv_->Pin(WriteAccess(b, 0, 12), PageReservation()).ok());
}

TEST_F(ItemAccessTest, FirstWriteToASharedPageCopiesIt) {
  Open(SmallGeometry());
  const SequenceId parent = Create();
  ASSERT_TRUE(Write(parent, 0, 10).ok());
  const SequenceId child = kv_->Fork(by_, parent, std::nullopt).value();
  EXPECT_EQ(Used(), 3);
  EXPECT_EQ(Describe(child).shared_pages, PageCount(3));

  const std::vector<uint64_t> before = Offsets(Take(ReadAccess(parent, 9, 1)).value());
  PageLease lease = Take(WriteAccess(child, 10, 1)).value();
  ASSERT_EQ(lease.copies().size(), 1);
  const PageCopy& copy = lease.copies()[0];
  EXPECT_EQ(copy.source, memory_->span().data() + before[2]);
  EXPECT_EQ(copy.destination, memory_->span().data() + lease.page_offsets()[2]);
  EXPECT_EQ(copy.num_layers, 3);
  EXPECT_EQ(copy.row_bytes, lease.view().layout.row_bytes);
  EXPECT_EQ(copy.layer_stride_bytes, lease.view().layout.layer_stride_bytes);
  EXPECT_NE(lease.page_offsets()[2], before[2]);
  EXPECT_EQ(lease.page_offsets()[1], before[1]);
  lease.Release();

  EXPECT_EQ(Offsets(Take(ReadAccess(parent, 9, 1)).value()), before);
  EXPECT_EQ(Used(), 4);
  // The page is the child's alone now, and the parent's is the parent's.
  EXPECT_TRUE(Take(WriteAccess(child, 10, 1, 1))->copies().empty());
  EXPECT_TRUE(Take(WriteAccess(parent, 10, 1))->copies().empty());
  EXPECT_EQ(kv_->Stats().pages_copied_total, 1);
}

TEST_F(ItemAccessTest, CopiesReachExactlyAsFarAsTheWrite) {
  Open(SmallGeometry());
  const SequenceId parent = Create();
  ASSERT_TRUE(Write(parent, 0, 20).ok());
  const SequenceId child = kv_->Fork(by_, parent, std::nullopt).value();
  // Positions 4 to 11 are pages 1 and 2; page 3 goes, since layer 0 ends at 12 but others do not.
  PageReservation reservation = kv_->Reserve(WriteAccess(child, 4, 8)).value();
  EXPECT_EQ(Reserved(), 2);
  PageLease lease = kv_->Pin(WriteAccess(child, 4, 8), std::move(reservation)).value();
  EXPECT_EQ(lease.copies().size(), 2);
  EXPECT_EQ(Describe(child).shared_pages, PageCount(3));
}

TEST_F(ItemAccessTest, PromisedCopiesAreForgottenWithTheLastReservation) {
  Open(SmallGeometry());
  const SequenceId parent = Create();
  ASSERT_TRUE(Write(parent, 0, 8).ok());
  const SequenceId child = kv_->Fork(by_, parent, std::nullopt).value();
  PageReservation reservation = kv_->Reserve(WriteAccess(child, 0, 8)).value();
  EXPECT_EQ(Reserved(), 2);
  reservation.Release();
  ASSERT_TRUE(kv_->Free(by_, parent).ok());  // nothing is shared any more
  reservation = kv_->Reserve(WriteAccess(child, 0, 8)).value();
  EXPECT_EQ(Reserved(), 0);
}

TEST_F(ItemAccessTest, SourceOfACopyStaysUntilTheLeaseEnds) {
  Open(SmallGeometry());
  const SequenceId parent = Create();
  ASSERT_TRUE(Write(parent, 0, 4).ok());
  const SequenceId child = kv_->Fork(by_, parent, std::nullopt).value();
  PageLease lease = Take(WriteAccess(child, 3, 1)).value();
  ASSERT_TRUE(kv_->Free(by_, parent).ok());
  EXPECT_EQ(Used(), 2);
  lease.Release();
  EXPECT_EQ(Used(), 1);
}

TEST_F(ItemAccessTest, PageInCopyIsNotWrittenInPlaceByItsLastOwner) {
  Open(SmallGeometry());
  const SequenceId parent = Create();
  ASSERT_TRUE(Write(parent, 0, 4).ok());
  const SequenceId child = kv_->Fork(by_, parent, std::nullopt).value();
  PageLease copying = Take(WriteAccess(child, 3, 1)).value();
  EXPECT_EQ(Take(WriteAccess(parent, 3, 1))->copies().size(), 1);
}

TEST_F(ItemAccessTest, LeasedOffsetsStayAsTheyWereWhileTheSequenceGoesOn) {
  Open(SmallGeometry(), 8);
  const SequenceId id = Create();
  ASSERT_TRUE(Write(id, 0, 30).ok());
  const SequenceId child = kv_->Fork(by_, id, std::nullopt).value();
  PageLease lease = Take(ReadAccess(id, 29, 1, 1)).value();
  const std::vector<uint64_t> before = Offsets(lease);
  ASSERT_TRUE(Take(WriteAccess(id, 5, 1, 0)).ok());  // copies pages in the middle
  for (uint32_t layer = 0; layer < 3; ++layer) {     // shortens, then grows beyond
    ASSERT_TRUE(Take(WriteAccess(id, 2, 1, layer)).ok());
    ASSERT_TRUE(Take(WriteAccess(id, 3, 97, layer)).ok());
  }
  EXPECT_EQ(Offsets(lease), before);
  ASSERT_TRUE(kv_->Free(by_, child).ok());
}

TEST_F(ItemAccessTest, PagesThatALeaseReadsAreFreedWhenItEnds) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  ASSERT_TRUE(Take(WriteAccess(id, 0, 20)).ok());
  PageLease reader = Take(ReadAccess(id, 19, 1)).value();
  ASSERT_TRUE(Take(WriteAccess(id, 0, 1)).ok());
  EXPECT_EQ(Describe(id).pages, PageCount(1));
  EXPECT_EQ(Used(), 5);
  // A newer lease does not hold them.
  PageLease newer = Take(ReadAccess(id, 0, 1)).value();
  reader.Release();
  ASSERT_TRUE(Take(ReadAccess(id, 0, 1)).ok());
  newer.Release();
  EXPECT_EQ(Used(), 1);
}

TEST_F(ItemAccessTest, DecodeStepWithinAPageTakesNoPage) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  ASSERT_TRUE(Write(id, 0, 5).ok());
  const CacheInfo before = Info();
  PageReservation reservation = kv_->Reserve(WriteAccess(id, 5, 1)).value();
  EXPECT_EQ(Reserved(), 0);
  EXPECT_TRUE(reservation.active());
  reservation.Release();
  ASSERT_TRUE(Take(WriteAccess(id, 5, 1)).ok());
  EXPECT_EQ(Info().used, before.used);
}

TEST_F(ItemAccessTest, ReservationOutlivesItsSequence) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  PageReservation reservation = kv_->Reserve(WriteAccess(id, 0, 5)).value();
  ASSERT_TRUE(kv_->Free(by_, id).ok());
  EXPECT_EQ(Reserved(), 0);
  const SequenceId next = Create();  // in the same slot
  PageReservation other = kv_->Reserve(WriteAccess(next, 0, 5)).value();
  reservation.Release();
  EXPECT_EQ(Reserved(), 2);
}

}  // namespace
}  // namespace attnd
