// SPDX-License-Identifier: Apache-2.0
//
// Many clients at once: they submit, cancel, let deadlines pass, fork, truncate, free and resume
// their sessions, while launches end from another thread. Under TSan this is the proof that state
// has one owner; everywhere it checks that each request is answered once and that nothing is lost.
//
//   scheduler_stress_test    prints its seed; ATTND_TEST_SEED=n takes it back
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <latch>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "server/admission/admission.h"
#include "tests/fakes/server_core.h"

namespace attnd {
namespace {

constexpr int kClients = 4;
constexpr int kRequestsPerClient = 1500;

uint64_t Seed() {
  static const uint64_t seed = [] {
    const char* given = std::getenv("ATTND_TEST_SEED");
    return given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  }();
  return seed;
}

// What one client did and was told.
struct Tally {
  std::atomic<int64_t> admitted = 0, answered = 0, refused = 0, operations = 0, operated = 0;
  std::atomic<int64_t> ok = 0, items = 0;
};

class Client {
 public:
  Client(ServerCore& core, Admission& admission, Tally& tally, uint64_t seed)
      : core_(core), admission_(admission), tally_(tally), random_(seed) {
    absl::StatusOr<SessionGrant> grant = core.cache.OpenSession(Duration{}, "client");
    token_ = grant->token;
    session_ = grant->ref;
    for (SequenceId& sequence : sequences_) sequence = core.NewSequence(session_);
  }

  void Run() {
    for (int i = 0; i < kRequestsPerClient; ++i) {
      const int64_t kind = Draw(0, 99);
      if (kind < 90) {
        Attend();
      } else if (kind < 98) {
        Operate(kind);
      } else {
        Resume();
      }
    }
  }

 private:
  int64_t Draw(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }

  WorkItem Item() {
    const SequenceId sequence = sequences_[static_cast<size_t>(Draw(0, kSequences - 1))];
    const auto layer = static_cast<uint32_t>(Draw(0, ServerCore::kLayers - 1));
    switch (Draw(0, 5)) {
      case 0:
        return core_.Dense(Draw(1, 20));
      case 1: {
        WorkItem read = core_.Write(session_, sequence, layer, 0, Draw(0, 40), Draw(1, 4));
        read.access->write = false;
        read.k = read.v = nullptr;
        return read;
      }
      default:
        // Some are holes, some repeat a step, some come too late: each has its own answer.
        return core_.Write(session_, sequence, layer, static_cast<uint64_t>(step_ += Draw(0, 1)),
                           Draw(0, 40), Draw(1, 12));
    }
  }

  void Attend() {
    auto request = std::make_unique<Request>();
    // One item per (sequence, layer) in a request, as validation sees to it.
    const int64_t count = Draw(1, 5);
    for (int64_t i = 0; i < count; ++i) {
      WorkItem item = Item();
      const bool taken =
          std::any_of(request->items.begin(), request->items.end(), [&](const WorkItem& other) {
            return item.access && other.access && item.access->sequence == other.access->sequence &&
                   item.access->layer == other.access->layer;
          });
      if (!taken) request->items.push_back(item);
    }
    if (Draw(0, 9) == 0) {
      request->deadline = core_.clock.Now() + std::chrono::microseconds(Draw(1, 200));
    }
    request->done = [this](std::unique_ptr<Request> answer) {
      ++tally_.answered;
      for (const ItemOutcome& outcome : answer->outcomes) {
        EXPECT_TRUE(outcome.finished());
        ++tally_.items;
        tally_.ok += outcome.status.ok();
      }
    };
    const absl::StatusOr<RequestId> id = admission_.Admit(std::move(request));
    if (!id.ok()) {
      ++tally_.refused;
      std::this_thread::yield();
      return;
    }
    ++tally_.admitted;
    if (Draw(0, 9) == 0) core_.scheduler->Cancel(*id);
  }

  void Operate(int64_t kind) {
    SequenceId& sequence = sequences_[static_cast<size_t>(Draw(0, kSequences - 1))];
    std::latch ran(1);
    ++tally_.operations;
    core_.scheduler->WhenQuiet(sequence, [&] {
      const SequenceId before = sequence;
      if (kind % 2 == 0) {
        // Go on with the fork, and let the parent go.
        absl::StatusOr<SequenceId> fork = core_.cache.Fork(session_, before, std::nullopt);
        EXPECT_TRUE(fork.ok()) << fork.status();
        if (fork.ok()) sequence = *fork;
        EXPECT_TRUE(core_.cache.Free(session_, before).ok());
      } else {
        const absl::Status status = core_.cache.Truncate(session_, before, TokenCount(0));
        EXPECT_TRUE(status.ok()) << status;
      }
      ++tally_.operated;
      ran.count_down();
    });
    ran.wait();
  }

  void Resume() {
    std::latch ran(1);
    ++tally_.operations;
    core_.scheduler->EvictSession(session_.session, [&] {
      absl::StatusOr<SessionGrant> grant = core_.cache.ResumeSession(token_, Duration{});
      EXPECT_TRUE(grant.ok()) << grant.status();
      token_ = grant->token;
      session_ = grant->ref;
      ++tally_.operated;
      ran.count_down();
    });
    ran.wait();
  }

  static constexpr int kSequences = 3;
  ServerCore& core_;
  Admission& admission_;
  Tally& tally_;
  std::mt19937_64 random_;
  std::string token_;
  SessionRef session_;
  SequenceId sequences_[kSequences];
  int64_t step_ = 1;
};

class SchedulerStressTest : public testing::TestWithParam<FakePlatform::Completion> {};

TEST_P(SchedulerStressTest, EveryRequestIsAnsweredOnceAndNothingIsLost) {
  SCOPED_TRACE(testing::Message() << "ATTND_TEST_SEED=" << Seed());
  ServerCoreOptions options{.completion = GetParam()};
  options.scheduler.max_batch_items = 6;
  options.scheduler.max_batch_tokens = 48;
  ServerCore core(options);
  Tally tally;
  {
    Admission admission(core.cache, *core.scheduler, core.metrics, core.clock,
                        {.max_queued_requests = 64, .max_queued_items = 128});
    std::atomic<bool> stop = false;
    std::thread device([&] {
      while (!stop) {
        core.clock.Advance(std::chrono::microseconds(20));
        if (core.platform.pending() > 0) core.platform.CompleteNext();
        std::this_thread::yield();
      }
      core.platform.CompleteAll();
    });
    std::vector<std::unique_ptr<Client>> clients;
    clients.reserve(kClients);
    for (int i = 0; i < kClients; ++i) {
      clients.push_back(std::make_unique<Client>(core, admission, tally, Seed() + i));
    }
    std::vector<std::thread> threads;
    threads.reserve(clients.size());
    for (const auto& client : clients) threads.emplace_back([&] { client->Run(); });
    for (int i = 0; i < 20; ++i) {
      EXPECT_TRUE(core.cache.CheckIntegrity().ok());
      core.metrics.Serialize();
      std::this_thread::yield();
    }
    for (std::thread& thread : threads) thread.join();
    admission.StartDraining();
    core.WaitIdle();
    stop = true;
    device.join();
  }
  EXPECT_EQ(tally.answered, tally.admitted);
  EXPECT_EQ(tally.operated, tally.operations);
  EXPECT_GT(tally.ok, 0);
  EXPECT_EQ(core.metrics.totals().items, static_cast<uint64_t>(tally.items));
  const Scheduler::Stats stats = core.scheduler->stats();
  EXPECT_EQ(stats.queued_items, 0);
  EXPECT_EQ(stats.queued_tokens, 0);
  EXPECT_EQ(stats.launched_items, 0);
  const KvCacheStats cache = core.cache.Stats();
  EXPECT_EQ(cache.caches[0].reserved, PageCount(0));
  const auto integrity = core.cache.CheckIntegrity();
  EXPECT_TRUE(integrity.ok()) << integrity.status();
}

INSTANTIATE_TEST_SUITE_P(Completion, SchedulerStressTest,
                         testing::Values(FakePlatform::Completion::kInline,
                                         FakePlatform::Completion::kManual),
                         [](const auto& info) {
                           return info.param == FakePlatform::Completion::kInline ? "Inline"
                                                                                  : "Asynchronous";
                         });

}  // namespace
}  // namespace attnd
