// SPDX-License-Identifier: Apache-2.0
//
// A fixed set of threads that share out a list of tasks: made for short parallel sections, many a
// second, on a thread that must go on as soon as the last task is done.
//
// The caller works too and never waits for a helper that has not begun: helpers join a section
// while it is open, take tasks from an atomic counter, and the section closes when the list is
// empty. So put the longest tasks first. Run allocates nothing. A helper spins for a moment between
// sections, less when that brought nothing, and then sleeps on a futex.
//
// Thread safety: Run may be called from any thread; sections run one at a time. A task must not
// call Run of its own pool.
//
//   ThreadPool pool(2);
//   pool.Run(tasks.size(), pool.num_threads(), [&](int64_t task, int worker) {
//     Compute(tasks[task], scratch[worker]);  // worker < num_threads(), one task at a time each
//   });
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "kernels/base/mutex.h"

namespace attnd {

class ThreadPool {
 public:
  using Task = absl::FunctionRef<void(int64_t task, int worker)>;

  // `num_threads` counts the caller of Run: 1 starts no thread. At least 1, at most kMaxThreads.
  explicit ThreadPool(int num_threads);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  int num_threads() const { return static_cast<int>(helpers_.size()) + 1; }

  // Calls fn(task, worker) once for each task in [0, num_tasks), on at most `max_threads` threads,
  // and returns when all calls have. What the tasks wrote is visible to the caller.
  void Run(int64_t num_tasks, int max_threads, Task fn) ABSL_LOCKS_EXCLUDED(run_mu_);

  static constexpr int kMaxThreads = 1024;

 private:
  // One section of work. Written only while the gate is closed and empty.
  struct Section {
    int64_t num_tasks = 0;
    int max_helpers = 0;
    const Task* fn = nullptr;
  };

  void HelperLoop();
  // Waits until a section other than `seen` opens; false when the pool is ending.
  bool AwaitSection(uint32_t seen, int& spins);
  // Counts this thread into the open section and gives its worker index; -1 where it has closed.
  // `seen` becomes the number of the section found.
  int Join(uint32_t& seen);
  void Leave();
  void Work(int worker);

  Mutex run_mu_;  // one section at a time
  Section section_;
  std::atomic<int64_t> next_task_{0};
  std::atomic<int> next_worker_{1};
  // Section number, open bit and the helpers inside, in one word: see the constants in the source.
  std::atomic<uint32_t> gate_{0};
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> helpers_;
};

}  // namespace attnd
