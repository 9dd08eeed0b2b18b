// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/internal/borrow_guard.h"

#include <utility>

namespace attnd::client {

grpc::Slice BorrowGuard::Lend(std::shared_ptr<BorrowGuard> guard, const void* data, size_t size) {
  {
    MutexLock lock(guard->mu_);
    ++guard->lent_;
  }
  // gRPC takes a plain pointer: the slice owns this handle, and OnDestroy deletes it.
  auto handle = std::make_unique<std::shared_ptr<BorrowGuard>>(std::move(guard));
  return {const_cast<void*>(data), size, &OnDestroy, handle.release()};
}

void BorrowGuard::OnDestroy(void* handle) {
  std::unique_ptr<std::shared_ptr<BorrowGuard>> guard(
      static_cast<std::shared_ptr<BorrowGuard>*>(handle));
  (*guard)->Return();
}

void BorrowGuard::Return() {
  Timers* timers = nullptr;
  std::function<void()> fn;
  {
    MutexLock lock(mu_);
    if (--lent_ > 0 || fn_ == nullptr) return;
    fn = std::exchange(fn_, nullptr);
    timers = timers_;
  }
  // gRPC may hold locks of its own here, so the rest happens elsewhere.
  timers->RunAt(timers->Now(), std::move(fn));
}

void BorrowGuard::WhenReturned(Timers& timers, std::function<void()> fn) {
  {
    MutexLock lock(mu_);
    if (lent_ > 0) {
      timers_ = &timers;
      fn_ = std::move(fn);
      return;
    }
  }
  fn();
}

}  // namespace attnd::client
