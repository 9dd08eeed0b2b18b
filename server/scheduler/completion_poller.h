// SPDX-License-Identifier: Apache-2.0
//
// Waits for the events of asynchronous devices, one after another in the order of their launches,
// and says how each ended.
//
// The thread starts with the first event: a daemon whose device works synchronously never has one.
// Watch and the destructor belong to one thread; `report` runs on the poller's.
//
//   CompletionPoller poller([&](uint64_t batch, absl::Status status) { inbox.Post(...); });
//   poller.Watch(*event, batch_number);   // the event outlives the report
#pragma once

#include <cstdint>
#include <deque>
#include <thread>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "kernels/backend/device.h"
#include "kernels/base/mutex.h"

namespace attnd {

class CompletionPoller {
 public:
  using Report = absl::AnyInvocable<void(uint64_t batch, absl::Status status)>;

  explicit CompletionPoller(Report report);
  // Waits for what is watched, and reports it.
  ~CompletionPoller();
  CompletionPoller(const CompletionPoller&) = delete;
  CompletionPoller& operator=(const CompletionPoller&) = delete;

  void Watch(Event& event, uint64_t batch) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  void Run() ABSL_LOCKS_EXCLUDED(mu_);

  struct Watched {
    Event* event = nullptr;
    uint64_t batch = 0;
  };

  Report report_;  // the thread's
  Mutex mu_;
  CondVar changed_;
  std::deque<Watched> watched_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;  // of whoever calls Watch, which is one thread
};

}  // namespace attnd
