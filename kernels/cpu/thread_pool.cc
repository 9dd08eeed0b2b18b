// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/thread_pool.h"

#include <algorithm>

namespace attnd {
namespace {

// The gate: helpers inside in the low bits, then the open bit, then the number of the section.
constexpr uint32_t kInsideMask = 0x7ffu;
constexpr uint32_t kOpen = 0x800u;
constexpr uint32_t kSectionUnit = 0x1000u;
static_assert(ThreadPool::kMaxThreads <= kInsideMask);

constexpr uint32_t SectionOf(uint32_t gate) { return gate / kSectionUnit; }

// A pause is some 40 to 140 cycles: the longest spin is about 50 us, the shortest about 1 us.
constexpr int kMaxSpins = 1024;
constexpr int kMinSpins = 16;

void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  const int helpers = std::clamp(num_threads, 1, kMaxThreads) - 1;
  helpers_.reserve(static_cast<size_t>(helpers));
  for (int i = 0; i < helpers; ++i) helpers_.emplace_back([this] { HelperLoop(); });
}

ThreadPool::~ThreadPool() {
  stopping_.store(true, std::memory_order_relaxed);
  gate_.fetch_add(kSectionUnit, std::memory_order_release);  // a section that never opens
  gate_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
}

void ThreadPool::Run(int64_t num_tasks, int max_threads, Task fn) {
  if (num_tasks <= 0) return;
  MutexLock lock(run_mu_);
  const int64_t helpers_wanted =
      std::min<int64_t>({num_tasks - 1, max_threads - 1, static_cast<int64_t>(helpers_.size())});
  if (helpers_wanted <= 0) {
    for (int64_t task = 0; task < num_tasks; ++task) fn(task, 0);
    return;
  }

  section_ = {num_tasks, static_cast<int>(helpers_wanted), &fn};
  next_task_.store(0, std::memory_order_relaxed);
  next_worker_.store(1, std::memory_order_relaxed);
  gate_.fetch_add(kSectionUnit | kOpen, std::memory_order_release);
  if (helpers_wanted == 1) {
    gate_.notify_one();
  } else {
    gate_.notify_all();
  }

  Work(/*worker=*/0);
  uint32_t gate = gate_.fetch_and(~kOpen, std::memory_order_acquire) & ~kOpen;
  for (int spins = 0; (gate & kInsideMask) != 0; ++spins) {
    if (spins < kMaxSpins) {
      Pause();
    } else {
      gate_.wait(gate, std::memory_order_acquire);
    }
    gate = gate_.load(std::memory_order_acquire);
  }
}

void ThreadPool::HelperLoop() {
  uint32_t seen = 0;
  int spins = kMaxSpins;
  while (AwaitSection(seen, spins)) {
    const int worker = Join(seen);
    if (worker < 0) continue;
    // More helpers may have woken than the section wants.
    if (worker <= section_.max_helpers) Work(worker);
    Leave();
  }
}

bool ThreadPool::AwaitSection(uint32_t seen, int& spins) {
  for (int i = 0; i < spins; ++i) {
    if (SectionOf(gate_.load(std::memory_order_acquire)) != seen) {
      spins = std::min(kMaxSpins, 2 * spins);
      return !stopping_.load(std::memory_order_relaxed);
    }
    Pause();
  }
  spins = std::max(kMinSpins, spins / 2);
  for (uint32_t gate = gate_.load(std::memory_order_acquire); SectionOf(gate) == seen;
       gate = gate_.load(std::memory_order_acquire)) {
    // The last section may be `seen` already: this thread woke for the one before and found it
    // closed.
    if (stopping_.load(std::memory_order_relaxed)) return false;
    gate_.wait(gate, std::memory_order_acquire);
  }
  return !stopping_.load(std::memory_order_relaxed);
}

int ThreadPool::Join(uint32_t& seen) {
  uint32_t gate = gate_.load(std::memory_order_relaxed);
  do {
    seen = SectionOf(gate);
    if ((gate & kOpen) == 0) return -1;
  } while (!gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acquire,
                                        std::memory_order_relaxed));
  return next_worker_.fetch_add(1, std::memory_order_relaxed);
}

void ThreadPool::Leave() {
  const uint32_t before = gate_.fetch_sub(1, std::memory_order_release);
  if ((before & kInsideMask) == 1 && (before & kOpen) == 0) gate_.notify_all();
}

void ThreadPool::Work(int worker) {
  const int64_t num_tasks = section_.num_tasks;
  const Task& fn = *section_.fn;
  for (int64_t task = next_task_.fetch_add(1, std::memory_order_relaxed); task < num_tasks;
       task = next_task_.fetch_add(1, std::memory_order_relaxed)) {
    fn(task, worker);
  }
}

}  // namespace attnd
