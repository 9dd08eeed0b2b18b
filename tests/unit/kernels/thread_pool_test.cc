// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/thread_pool.h"

#include <array>
#include <atomic>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_topology.h"

namespace attnd {
namespace {

TEST(ThreadPoolTest, RunsEachTaskOnceAndMakesItsWritesVisible) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    ASSERT_EQ(pool.num_threads(), threads);
    for (int64_t tasks : {0, 1, 2, 7, 1000}) {
      std::vector<int> runs(static_cast<size_t>(tasks), 0);
      pool.Run(tasks, threads, [&](int64_t task, int) { ++runs[static_cast<size_t>(task)]; });
      EXPECT_EQ(runs, std::vector<int>(static_cast<size_t>(tasks), 1));
    }
  }
}

TEST(ThreadPoolTest, WorkersAreExclusiveAndBelowTheLimit) {
  ThreadPool pool(8);
  for (int limit : {1, 2, 3, 8, 100}) {
    std::array<std::atomic<int>, 8> inside{};
    std::atomic<bool> overlap{false}, out_of_range{false};
    for (int round = 0; round < 50; ++round) {
      pool.Run(64, limit, [&](int64_t, int worker) {
        if (worker < 0 || worker >= std::min(limit, 8)) {
          out_of_range = true;
          return;
        }
        if (inside[static_cast<size_t>(worker)].fetch_add(1) != 0) overlap = true;
        for (int spin = 0; spin < 100; ++spin) asm volatile("");
        inside[static_cast<size_t>(worker)].fetch_sub(1);
      });
    }
    EXPECT_FALSE(overlap) << limit;
    EXPECT_FALSE(out_of_range) << limit;
  }
}

// Sections opened and closed as fast as they go: late helpers must not enter a section that closed,
// nor miss that one is over.
TEST(ThreadPoolTest, SurvivesManyShortSections) {
  ThreadPool pool(4);
  int64_t total = 0;
  for (int section = 0; section < 20'000; ++section) {
    std::array<int64_t, 3> sums{};
    pool.Run(3, 4, [&](int64_t task, int) { sums[static_cast<size_t>(task)] = section + task; });
    total += sums[0] + sums[1] + sums[2];
  }
  EXPECT_EQ(total, int64_t{3} * 20'000 * 19'999 / 2 + 3 * 20'000);
}

TEST(ThreadPoolTest, CallersOnSeveralThreadsTakeTurns) {
  ThreadPool pool(3);
  int64_t unguarded = 0;  // only safe where sections exclude one another
  std::vector<std::thread> callers;
  callers.reserve(4);
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int section = 0; section < 200; ++section) {
        pool.Run(5, 3, [&](int64_t task, int) {
          if (task == 0) ++unguarded;
        });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(unguarded, 800);
}

// A helper may wake for a section, and find it closed and the pool ending.
TEST(ThreadPoolTest, EndsWhileHelpersWake) {
  for (int round = 0; round < 200; ++round) {
    std::atomic<int> done = 0;
    {
      // More threads than CPUs: some wake late.
      ThreadPool pool(12);
      pool.Run(2, 12, [&](int64_t, int) { ++done; });
      pool.Run(2, 12, [&](int64_t, int) { ++done; });
    }
    ASSERT_EQ(done, 4);
  }
}

TEST(CpuTopologyTest, FindsAMachine) {
  EXPECT_GE(UsableCpus(), 1);
  EXPECT_GT(UsableMemory(), Bytes(1 << 20));
  const CacheSizes caches = DetectCacheSizes();
  EXPECT_GE(caches.l1_bytes, 4 << 10);
  EXPECT_GE(caches.l2_bytes, caches.l1_bytes);
}

}  // namespace
}  // namespace attnd
