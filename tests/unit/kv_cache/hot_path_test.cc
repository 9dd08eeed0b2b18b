// SPDX-License-Identifier: Apache-2.0
//
// What a decode step may not do: allocate.
#include "tests/fakes/allocation_counter.h"
#include "tests/unit/kv_cache/cache_fixture.h"

namespace attnd {
namespace {

class HotPathTest : public CacheFixture {
 protected:
  // Of Reserve, Pin and the release, without what the test itself needs.
  int64_t AllocationsOf(const LayerAccess& access) {
    const int64_t before = AllocationCount();
    absl::StatusOr<PageReservation> reservation = kv_->Reserve(access);
    EXPECT_TRUE(kv_->Pin(access, *std::move(reservation)).ok());
    return AllocationCount() - before;
  }
};

TEST_F(HotPathTest, DecodeStepWithinAPageAllocatesNothing) {
  Open(SmallGeometry());
  const SequenceId id = Create();
  ASSERT_TRUE(Write(id, 0, 41).ok());
  for (uint32_t layer = 0; layer < 3; ++layer) {
    EXPECT_EQ(AllocationsOf(WriteAccess(id, 41, 1, layer)), 0);
    EXPECT_EQ(AllocationsOf(WriteAccess(id, 42, 1, layer)), 0);
    EXPECT_EQ(AllocationsOf(ReadAccess(id, 42, 1, layer)), 0);
  }
}

// The table doubles, and a slab enters or leaves the set of those with free pages.
TEST_F(HotPathTest, NewPagesAllocateSeldom) {
  Open(SmallGeometry(), 16);
  const SequenceId id = Create();
  int64_t total = 0;
  for (int64_t position = 0; position < 4 * 300; ++position) {
    total += AllocationsOf(WriteAccess(id, position, 1));
  }
  EXPECT_LT(total, 200);
}

}  // namespace
}  // namespace attnd
