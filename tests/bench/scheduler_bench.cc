// SPDX-License-Identifier: Apache-2.0
//
// What the scheduler itself costs: from Submit to the call of `done`, on a device that computes
// nothing; and what the batch policy costs on long queues.
//
//   build/release/bench/bin/scheduler_bench [--json FILE]
//
// Workloads:
//   hot      one client submits its next request when the last is done, and spins for it
//   paced    the same with 1 ms between requests: the scheduler sleeps, so a wake-up is in it
//   stream   one client keeps 64 requests in flight; the scheduler's processor time a request
// each with one dense item, and with 4 one-token writes to a cache of 4 layers (Pin and the release
// of its lease are in it, Reserve is not). Answers are checked.
//   policy   one call of DecideBatch for 256 of the queued items, by queued sequences and depth
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "server/scheduler/batch_policy.h"
#include "server/scheduler/inbox.h"
#include "server/scheduler/scheduler.h"
#include "tests/bench/report.h"
#include "tests/bench/stopwatch.h"
#include "tests/fakes/server_core.h"

namespace attnd::bench {
namespace {

constexpr int kWarmup = 2000;
constexpr int64_t kMaxTokens = 512;  // then the sequence starts over

void Require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "scheduler_bench: verification failed: %s\n", what);
  std::exit(1);
}

// Makes requests whose items are the decode step of one sequence in each layer, or one dense item.
class Workload {
 public:
  Workload(ServerCore& core, bool dense)
      : core_(core), dense_(dense), sequence_(core.NewSequence()) {}

  std::unique_ptr<Request> Next() {
    if (dense_) return core_.Make({core_.Dense(1)});
    const int64_t start = static_cast<int64_t>(step_) % kMaxTokens;
    ++step_;
    std::vector<WorkItem> items;
    for (uint32_t layer = 0; layer < ServerCore::kLayers; ++layer) {
      items.push_back(core_.Write(sequence_, layer, step_, start, 1));
    }
    return core_.Make(std::move(items));
  }

 private:
  ServerCore& core_;
  const bool dense_;
  const SequenceId sequence_;
  uint64_t step_ = 0;
};

void CheckAnswer(const Request& request) {
  for (const ItemOutcome& outcome : request.outcomes)
    Require(outcome.status.ok(), "an item failed");
}

// Microseconds from Submit to `done`, for each of `count` requests.
std::vector<double> Latencies(bool dense, int count, Duration pause) {
  ServerCore core;
  core.platform.StopRecording();
  Workload workload(core, dense);
  std::vector<double> samples;
  std::atomic<bool> done = false;
  double took = 0;
  const int warmup = pause > Duration::zero() ? 20 : kWarmup;
  for (int i = 0; i < warmup + count; ++i) {
    std::unique_ptr<Request> request = workload.Next();
    if (pause > Duration::zero()) {
      // tidy-allow(sleep): the pause between two requests is the workload.
      std::this_thread::sleep_for(pause);
    }
    done.store(false, std::memory_order_relaxed);
    std::unique_ptr<Request> answer;
    const Stopwatch watch;
    request->done = [&](std::unique_ptr<Request> r) {
      took = watch.Seconds();
      answer = std::move(r);
      done.store(true, std::memory_order_release);
    };
    core.scheduler->Submit(std::move(request));
    for (int spins = 0; !done.load(std::memory_order_acquire); ++spins) {
      if (spins < 2000) {
        SpinPause();
      } else {
        std::this_thread::yield();
      }
    }
    CheckAnswer(*answer);
    if (i >= warmup) samples.push_back(1e6 * took);
  }
  return samples;
}

double CpuSeconds(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Processor time of every thread but this one.
double OthersCpuSeconds() {
  return CpuSeconds(CLOCK_PROCESS_CPUTIME_ID) - CpuSeconds(CLOCK_THREAD_CPUTIME_ID);
}

// Microseconds of the scheduler's processor time a request, with 64 in flight; runs of 1000.
std::vector<double> StreamTimes(bool dense) {
  constexpr int kRuns = 100, kRequests = 1000, kInFlight = 64;
  ServerCore core;
  core.platform.StopRecording();
  Workload workload(core, dense);
  std::vector<double> samples;
  std::atomic<int64_t> in_flight = 0, failed = 0;
  const auto wait_below = [&](int64_t limit) {
    while (in_flight.load(std::memory_order_acquire) >= limit) SpinPause();
  };
  for (int run = 0; run < kRuns + 5; ++run) {
    std::vector<std::unique_ptr<Request>> requests;
    for (int i = 0; i < kRequests; ++i) {
      requests.push_back(workload.Next());
      requests.back()->done = [&](std::unique_ptr<Request> answer) {
        for (const ItemOutcome& outcome : answer->outcomes) failed += !outcome.status.ok();
        in_flight.fetch_sub(1, std::memory_order_release);
      };
    }
    const double before = OthersCpuSeconds();
    for (std::unique_ptr<Request>& request : requests) {
      wait_below(kInFlight);
      in_flight.fetch_add(1, std::memory_order_relaxed);
      core.scheduler->Submit(std::move(request));
    }
    wait_below(1);
    if (run >= 5) samples.push_back(1e6 * (OthersCpuSeconds() - before) / kRequests);
  }
  Require(failed == 0, "an item failed");
  return samples;
}

// Microseconds of one decision over `sequences` queues of `depth` items each.
std::vector<double> PolicyTimes(int sequences, int depth) {
  std::vector<QueuedItem> items(static_cast<size_t>(sequences) * static_cast<size_t>(depth));
  std::vector<const QueuedItem*> heads;
  for (int s = 0; s < sequences; ++s) {
    for (int d = 0; d < depth; ++d) {
      QueuedItem& item = items[static_cast<size_t>(d) * sequences + s];
      item.order = static_cast<uint64_t>(d) * sequences + s;
      item.layer = 0;
      item.tokens = 1;
      if (d > 0) items[static_cast<size_t>(d - 1) * sequences + s].next = &item;
    }
    heads.push_back(&items[s]);
  }
  BatchScratch scratch;
  std::vector<double> samples;
  for (int i = 0; i < 2000; ++i) {
    const Stopwatch watch;
    const BatchDecision decision = DecideBatch(heads, MonotonicTime(), {}, scratch);
    samples.push_back(1e6 * watch.Seconds());
    Require(decision.launch && scratch.batch.size() == std::min<size_t>(sequences, 256),
            "the batch is not what it must be");
  }
  return samples;
}

int Main(int argc, const char* const* argv) {
  Report report("scheduler", argc, argv);
  const auto add = [&](const std::string& name, std::vector<double> samples) {
    report.AddSamples(name, "us", samples);
  };
  for (bool dense : {true, false}) {
    const std::string items = dense ? ", 1 dense item" : ", 4 cached items";
    add("hot" + items, Latencies(dense, 50000, {}));
    add("paced 1 ms" + items, Latencies(dense, 500, std::chrono::milliseconds(1)));
    add("stream of 64, CPU" + items, StreamTimes(dense));
  }
  for (int sequences : {1, 64, 256, 4096}) {
    for (int depth : {1, 16}) {
      add("policy, " + std::to_string(sequences) + " sequences x " + std::to_string(depth),
          PolicyTimes(sequences, depth));
    }
  }
  return report.Finish();
}

}  // namespace
}  // namespace attnd::bench

int main(int argc, char** argv) { return attnd::bench::Main(argc, argv); }
