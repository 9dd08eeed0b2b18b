// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/timers.h"

#include <map>
#include <thread>
#include <utility>

#include "kernels/base/mutex.h"

namespace attnd::client {
namespace {

class RealTimers : public Timers {
 public:
  RealTimers() : thread_([this] { Run(); }) {}

  ~RealTimers() override {
    {
      MutexLock lock(mu_);
      stop_ = true;
      changed_.Signal();
    }
    thread_.join();
  }

  MonotonicTime Now() const override { return Clock::Real().Now(); }

  void RunAt(MonotonicTime when, std::function<void()> fn) override {
    MutexLock lock(mu_);
    due_.emplace(when, std::move(fn));
    changed_.Signal();
  }

 private:
  void Run() {
    mu_.Lock();
    while (!stop_) {
      if (due_.empty()) {
        changed_.Wait(mu_);
      } else if (due_.begin()->first > Now()) {
        changed_.WaitUntil(mu_, due_.begin()->first);
      } else {
        std::function<void()> fn = std::move(due_.begin()->second);
        due_.erase(due_.begin());
        mu_.Unlock();
        fn();
        fn = nullptr;
        mu_.Lock();
      }
    }
    mu_.Unlock();
  }

  Mutex mu_;
  CondVar changed_;
  std::multimap<MonotonicTime, std::function<void()>> due_ ABSL_GUARDED_BY(mu_);
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;  // last: it uses the rest
};

}  // namespace

std::shared_ptr<Timers> Timers::Real() { return std::make_shared<RealTimers>(); }

}  // namespace attnd::client
