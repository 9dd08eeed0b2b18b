// SPDX-License-Identifier: Apache-2.0
#include "server/scheduler/completion_poller.h"

#include <utility>

namespace attnd {

CompletionPoller::CompletionPoller(Report report) : report_(std::move(report)) {}

CompletionPoller::~CompletionPoller() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
  }
  changed_.Signal();
  if (thread_.joinable()) thread_.join();
}

void CompletionPoller::Watch(Event& event, uint64_t batch) {
  {
    MutexLock lock(mu_);
    watched_.push_back({&event, batch});
  }
  changed_.Signal();
  if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
}

void CompletionPoller::Run() {
  for (;;) {
    Watched next;
    {
      MutexLock lock(mu_);
      while (watched_.empty() && !stopping_) changed_.Wait(mu_);
      if (watched_.empty()) return;
      next = watched_.front();
      watched_.pop_front();
    }
    absl::Status status = next.event->Wait();
    report_(next.batch, std::move(status));
  }
}

}  // namespace attnd
