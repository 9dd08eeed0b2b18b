// SPDX-License-Identifier: Apache-2.0
#include "kv_cache/pin_phases.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>
#include <vector>

namespace attnd {
namespace {

class PinPhasesTest : public testing::Test {
 protected:
  void Unpin(int phase) {
    phases_.Unpin(phase, [this](PageId page) { released_.push_back(page); });
  }
  PinPhases phases_;
  std::vector<PageId> released_;
};

TEST_F(PinPhasesTest, ReleasesWhenTheLastLeaseOfThatTimeEnds) {
  const int a = phases_.Pin(), b = phases_.Pin();
  phases_.Retire(PageId(1));
  Unpin(a);
  EXPECT_TRUE(released_.empty());
  Unpin(b);
  EXPECT_EQ(released_, std::vector<PageId>{PageId(1)});
  EXPECT_FALSE(phases_.pinned());
}

TEST_F(PinPhasesTest, RetiredJustBeforeAPinWaitsForIt) {
  phases_.Retire(PageId(1));
  const int a = phases_.Pin();
  EXPECT_TRUE(released_.empty());
  Unpin(a);
  EXPECT_EQ(released_.size(), 1u);
}

// Leases overlap without end; retired pages still come free.
TEST_F(PinPhasesTest, AlwaysPinnedSequenceStillReleases) {
  int previous = phases_.Pin();
  for (uint32_t i = 0; i < 100; ++i) {
    phases_.Retire(PageId(i));
    const int next = phases_.Pin();
    Unpin(previous);
    previous = next;
  }
  EXPECT_TRUE(phases_.pinned());
  EXPECT_GE(released_.size(), 95u);
}

TEST_F(PinPhasesTest, NeverReleasesWhatAnOlderLeaseMayRead) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  std::vector<std::pair<int, std::set<uint32_t>>> leases;  // phase, pages that it may read
  uint32_t next_page = 0;
  std::set<uint32_t> retired;
  for (int i = 0; i < 100000; ++i) {
    const uint64_t pick = random() % 3;
    if (pick == 0 && leases.size() < 6) {
      leases.push_back({phases_.Pin(), {}});
    } else if (pick == 1 && !leases.empty()) {
      for (auto& [phase, pages] : leases) pages.insert(next_page);
      retired.insert(next_page);
      phases_.Retire(PageId(next_page++));
    } else if (!leases.empty()) {
      const size_t index = random() % leases.size();
      const int phase = leases[index].first;
      leases.erase(leases.begin() + static_cast<ptrdiff_t>(index));
      phases_.Unpin(phase, [&](PageId page) {
        ASSERT_EQ(retired.erase(page.value()), 1u);
        for (const auto& lease : leases) ASSERT_FALSE(lease.second.contains(page.value()));
      });
      ASSERT_TRUE(!leases.empty() || retired.empty());
    }
  }
}

}  // namespace
}  // namespace attnd
