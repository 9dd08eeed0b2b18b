// SPDX-License-Identifier: Apache-2.0
//
// Many threads at one cache, for ThreadSanitizer and for the invariants under real interleaving.
//
// Each client writes, forks and reads back its own sequences out of a pool too small for all; its
// leases end on another thread, as a completion poller ends them; one more thread watches. Nothing
// is timed: the threads only ever wait for each other's leases.
#include <atomic>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/base/mutex.h"
#include "tests/unit/kv_cache/cache_fixture.h"
#include "tests/unit/kv_cache/page_bytes.h"

namespace attnd {
namespace {

constexpr int kClients = 3;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kItems = 4000;
#else
constexpr int kItems = 30'000;
#endif

// Takes leases and ends them on its own thread, reading their offsets without any lock.
class Poller {
 public:
  void Add(PageLease lease) {
    MutexLock lock(mu_);
    leases_.push_back(std::move(lease));
    added_.Signal();
  }
  void Run() {
    for (;;) {
      std::vector<PageLease> taken;
      {
        MutexLock lock(mu_);
        while (leases_.empty() && !stopped_) added_.Wait(mu_);
        if (leases_.empty()) return;
        taken.swap(leases_);
      }
      for (const PageLease& lease : taken) {
        for (uint64_t offset : lease.page_offsets()) checksum_ += offset;
      }
    }
  }
  void Stop() {
    MutexLock lock(mu_);
    stopped_ = true;
    added_.SignalAll();
  }

 private:
  Mutex mu_;
  CondVar added_;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<PageLease> leases_ ABSL_GUARDED_BY(mu_);
  uint64_t checksum_ = 0;  // of the poller's thread
};

class Client {
 public:
  Client(KvCache& kv, CacheId cache, Poller& poller, uint64_t seed)
      : kv_(kv), cache_(cache), poller_(poller), random_(seed) {}

  void Run() {
    grant_ = kv_.OpenSession(Duration::zero(), "stress").value();
    for (int i = 0; i < kItems && !testing::Test::HasFailure(); ++i) {
      if (sequences_.empty() || (sequences_.size() < 4 && random_() % 50 == 0)) Create();
      Item(sequences_[random_() % sequences_.size()]);
      if (random_() % 40 == 0) Fork();
      if (random_() % 60 == 0) Drop();
      if (random_() % 500 == 0) grant_ = kv_.ResumeSession(grant_.token, Duration::zero()).value();
    }
    while (kv_.CloseSession(grant_.ref).code() == absl::StatusCode::kFailedPrecondition) {
      std::this_thread::yield();
    }
  }

 private:
  struct Own {
    SequenceId id;
    uint64_t step = 0;
    std::vector<uint64_t> marks{};
  };

  void Create() {
    sequences_.push_back({.id = kv_.CreateSequence(grant_.ref, cache_, "").value()});
  }

  void Item(Own& own) {
    const int64_t length = std::ssize(own.marks);
    int64_t start = length;
    if (length > 0 && (random_() % 8 == 0 || length > 120)) {
      start = static_cast<int64_t>(random_() % static_cast<uint64_t>(length));
    }
    const LayerAccess access{.by = grant_.ref,
                             .sequence = own.id,
                             .layer = LayerIndex(0),
                             .write = true,
                             .step = own.step + 1,
                             .start_position = TokenCount(start),
                             .num_tokens = TokenCount(static_cast<int64_t>(1 + random_() % 9))};
    absl::StatusOr<PageReservation> reservation = kv_.Reserve(access);
    if (!reservation.ok()) {
      ASSERT_EQ(reservation.status().code(), absl::StatusCode::kResourceExhausted);
      return;
    }
    absl::StatusOr<PageLease> lease = kv_.Pin(access, *std::move(reservation));
    ASSERT_TRUE(lease.ok()) << "what was promised was not there: " << lease.status();
    ++own.step;
    ExecuteCopies(lease->copies());
    own.marks.resize(static_cast<size_t>(start + access.num_tokens.value()));
    for (size_t p = static_cast<size_t>(start); p < own.marks.size(); ++p) {
      own.marks[p] = random_() | 1;
      WriteToken(lease->view(), lease->page_offsets(), static_cast<int64_t>(p), own.marks[p]);
    }
    for (size_t p = 0; p < own.marks.size(); ++p) {
      ASSERT_EQ(ReadToken(lease->view(), lease->page_offsets(), static_cast<int64_t>(p)),
                own.marks[p]);
    }
    poller_.Add(*std::move(lease));
  }

  // Waits until the poller has ended the leases, as the scheduler waits for launched items.
  void Fork() {
    if (sequences_.size() >= 6) return;
    const size_t parent = random_() % sequences_.size();
    for (;;) {
      const auto child = kv_.Fork(grant_.ref, sequences_[parent].id, std::nullopt);
      if (child.ok()) {
        sequences_.push_back({.id = *child, .step = 0, .marks = sequences_[parent].marks});
        return;
      }
      ASSERT_EQ(child.status().code(), absl::StatusCode::kFailedPrecondition);
      std::this_thread::yield();
    }
  }

  void Drop() {
    std::swap(sequences_[random_() % sequences_.size()], sequences_.back());
    for (;;) {
      const absl::Status status = kv_.Free(grant_.ref, sequences_.back().id);
      if (status.ok()) break;
      ASSERT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
      std::this_thread::yield();
    }
    sequences_.pop_back();
  }

  KvCache& kv_;
  const CacheId cache_;
  Poller& poller_;
  std::mt19937_64 random_;
  SessionGrant grant_;
  std::vector<Own> sequences_;
};

class KvCacheStressTest : public CacheFixture {};

TEST_F(KvCacheStressTest, ClientsDoNotDisturbEachOther) {
  Open(SmallGeometry(), /*superblocks=*/8);
  const CacheId other = OpenCache("other", OnePageSlabGeometry());
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  Poller poller;
  std::thread polling([&] { poller.Run(); });
  std::atomic<bool> done = false;
  std::thread watching([&] {
    while (!done) {
      const auto report = kv_->CheckIntegrity();
      ASSERT_TRUE(report.ok()) << report.status();
      EXPECT_EQ(kv_->Stats().caches.size(), 2u);
      EXPECT_TRUE(kv_->ExpiredSessions().empty());
      kv_->ListSessions();
    }
  });
  std::vector<std::thread> clients;
  for (uint64_t i = 0; i < kClients; ++i) {
    clients.emplace_back([&, i] { Client(*kv_, i == 0 ? other : cache_, poller, seed + i).Run(); });
  }
  for (std::thread& client : clients) client.join();
  done = true;
  watching.join();
  poller.Stop();
  polling.join();
  EXPECT_EQ(Used(), 0);
  EXPECT_EQ(Reserved(), 0);
}

}  // namespace
}  // namespace attnd
