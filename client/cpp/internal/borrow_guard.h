// SPDX-License-Identifier: Apache-2.0
//
// Lends the caller's memory to gRPC and knows when gRPC has let go of it.
//
// A slice over borrowed memory can outlive its call: after a cancellation the transport may still
// be writing it. So a call is only complete once its guard says that no slice is left. Thread-safe.
//
//   auto guard = std::make_shared<BorrowGuard>();
//   grpc::Slice slice = BorrowGuard::Lend(guard, q.data, q.size_bytes());
//   guard->WhenReturned(*timers, [] { /* the memory is the caller's again */ });
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

#include <grpcpp/support/slice.h>

#include "client/cpp/timers.h"
#include "kernels/base/mutex.h"

namespace attnd::client {

class BorrowGuard {
 public:
  // A slice over [data, data + size) that nobody copies. The slice keeps the guard alive.
  static grpc::Slice Lend(std::shared_ptr<BorrowGuard> guard, const void* data, size_t size);

  // Runs `fn` once no slice is left: right here where that is so already, otherwise on a thread of
  // `timers`, never inside gRPC. Call it once, when no more slices will be lent.
  void WhenReturned(Timers& timers, std::function<void()> fn) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  static void OnDestroy(void* handle);
  void Return() ABSL_LOCKS_EXCLUDED(mu_);

  Mutex mu_;
  int64_t lent_ ABSL_GUARDED_BY(mu_) = 0;
  Timers* timers_ ABSL_GUARDED_BY(mu_) = nullptr;
  std::function<void()> fn_ ABSL_GUARDED_BY(mu_);
};

}  // namespace attnd::client
