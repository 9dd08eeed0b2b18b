// SPDX-License-Identifier: Apache-2.0
//
// A million random operations against a plain model: no page is lost, none is owned twice, every
// sequence reads what was written to it, every call answers with the code that the model expects.
//
// The seed is printed; ATTND_TEST_SEED takes it back. Bytes are really written, page copies really
// executed, free pages are full of NaN. Each step compares the cache's counts with the model's;
// every kIntegrityInterval steps, and at the end of each round, CheckIntegrity walks everything.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>

#include "tests/unit/kv_cache/property_prefixes.h"

namespace attnd {
namespace {

// Calls of the cache that the model predicted.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int64_t kOperations = 100'000;
#elif !defined(__OPTIMIZE__)
constexpr int64_t kOperations = 300'000;
#else
constexpr int64_t kOperations = 2'000'000;
#endif
constexpr int kRounds = 10;  // with a new cache each
constexpr int kIntegrityInterval = 50;

class Round : public PropertyPrefixes {
 public:
  Round(uint64_t seed, bool poison, int64_t limit_superblocks)
      : PropertyPrefixes(seed, poison, limit_superblocks) {
    for (int i = 0; i < kNumGeometries; ++i) OpenCache(i);
    OpenSession();
  }

  void Step() {
    ++steps_;
    if (leases_.size() > 30) return Release(0);
    const int64_t pick = Below(1000);
    if (pick < 270) return ReserveWrite();
    if (pick < 480) return PinReserved();
    if (pick < 530) return PinUnreserved();
    if (pick < 550) return DropReservation();
    if (pick < 610) return PinRead();
    if (pick < 830) return ReleaseLease();
    if (pick < 850) return Publish();
    if (pick < 870) return CreateFromPrefix();
    if (pick < 890) return CreateSequence();
    if (pick < 920) return Fork();
    if (pick < 945) return Truncate();
    if (pick < 965) return Free();
    if (pick < 975) return SetClientState();
    if (pick < 980) return UseStaleId();
    if (pick < 984) return OpenSession();
    if (pick < 989) return ResumeSession();
    if (pick < 991) return CloseSession();
    if (pick < 994) return ReopenCache();
    if (pick < 997) return LetTimePass();
    CompareInfos();
  }
  // Ends everything; nothing may be left.
  void Finish() {
    while (!leases_.empty()) Release(leases_.size() - 1);
    CheckIntegrity();
    for (const auto& sequence : sequences_) CheckContents(*sequence);
    reservations_.clear();
    for (const auto& sequence : sequences_) {
      sequence->cache->num_reservations -= sequence->reservations;
    }
    CheckCounts();
    clock_.Advance(kLease);
    for (const SessionRef& expired : kv_->ExpiredSessions()) {
      ASSERT_TRUE(kv_->CloseSession(expired).ok());
    }
    for (const auto& [tenant, observer] : observers_) {
      ASSERT_TRUE(kv_->CloseSession(observer).ok());
    }
    ASSERT_EQ(kv_->Stats().num_sequences, 0);
    ASSERT_EQ(kv_->Stats().num_sessions, 0);
    CheckIntegrity();
    for (const CacheInfo& info : kv_->Stats().caches) {
      ASSERT_EQ(info.used, PageCount(0));
      ASSERT_EQ(info.reserved, PageCount(0));
      ASSERT_TRUE(kv_->CloseCache(info.cache).ok());
    }
    ASSERT_EQ(kv_->Stats().pools[0].largest_free_run_superblocks, kPoolSuperblocks);
    sequences_.clear();
  }
};

TEST(KvCachePropertyTest, NoPageIsLostAndNoneIsOwnedTwice) {
  uint64_t seed = std::random_device()();
  if (const char* given = std::getenv("ATTND_TEST_SEED")) seed = std::strtoull(given, nullptr, 0);
  std::printf("ATTND_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::map<absl::StatusCode, int64_t> outcomes;
  uint64_t pages_copied = 0, slabs_moved = 0, pages_evicted = 0;
  int64_t tokens_matched = 0;
  for (int r = 0; r < kRounds; ++r) {
    // Far apart, so that neighbouring seeds share no round.
    Round round(seed + static_cast<uint64_t>(r) * 0x9e3779b97f4a7c15, /*poison=*/r % 2 == 0,
                /*limit_superblocks=*/r % 3 == 0 ? kPoolSuperblocks - 3 : 0);
    for (int64_t step = 0; round.operations() < kOperations / kRounds; ++step) {
      round.Step();
      if (!HasFailure()) round.FollowEvictions();
      if (!HasFailure()) round.CheckCounts();
      if (step % kIntegrityInterval == 0 && !HasFailure()) {
        round.CheckCached();
        round.CheckIntegrity();
      }
      if (HasFailure()) FAIL() << "seed " << seed << ", round " << r << ", step " << step;
    }
    pages_copied += round.stats().pages_copied_total;
    slabs_moved += round.stats().slabs_moved_total;
    pages_evicted += round.stats().prefix_pages_evicted_total;
    tokens_matched += round.tokens_matched();
    round.Finish();
    if (HasFailure()) FAIL() << "seed " << seed << ", end of round " << r;
    for (const auto& [code, count] : round.outcomes()) outcomes[code] += count;
  }
  for (const auto& [code, count] : outcomes) {
    std::printf("%10lld %s\n", static_cast<long long>(count),
                absl::StatusCodeToString(code).c_str());
  }
  std::printf("%10llu pages copied, %llu slabs moved, %lld tokens matched, %llu pages evicted\n",
              static_cast<unsigned long long>(pages_copied),
              static_cast<unsigned long long>(slabs_moved), static_cast<long long>(tokens_matched),
              static_cast<unsigned long long>(pages_evicted));
  // The mix must reach what it is meant to test.
  for (const absl::StatusCode code :
       {absl::StatusCode::kOk, absl::StatusCode::kNotFound, absl::StatusCode::kAborted,
        absl::StatusCode::kFailedPrecondition, absl::StatusCode::kResourceExhausted,
        absl::StatusCode::kInvalidArgument}) {
    EXPECT_GT(outcomes[code], 0) << absl::StatusCodeToString(code);
  }
  EXPECT_GT(pages_copied, 0u);
  EXPECT_GT(slabs_moved, 0u);
  EXPECT_GT(tokens_matched, 0);
  EXPECT_GT(pages_evicted, 0u);
}

}  // namespace
}  // namespace attnd
