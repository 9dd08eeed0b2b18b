// SPDX-License-Identifier: Apache-2.0
//
// A device and a backend that compute nothing, remember everything they were asked, and finish when
// the test says so.
//
// kInline events are done when Record returns, as on a synchronous device; kManual ones when
// CompleteNext is called, oldest first. Thread-safe.
//
//   FakePlatform platform(FakePlatform::Completion::kManual);
//   Engine engine(platform.backend(), platform.device());
//   ... platform.WaitForLaunches(1);  platform.CompleteNext();
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/backend/attention_backend.h"
#include "kernels/backend/device.h"
#include "kernels/backend/plugin.h"

namespace attnd {

// What a stream was given, in order.
struct FakeStreamOp {
  enum class Kind { kCopyPages, kLaunch, kRecord };
  Kind kind;
  std::vector<PageCopy> copies;
  KernelKey key;
  int32_t num_query_heads = 0;
  int32_t num_kv_heads = 0;
  std::vector<AttentionItem> items;
};

class FakePlatform {
 public:
  enum class Completion { kInline, kManual };

  explicit FakePlatform(Completion completion = Completion::kInline);
  ~FakePlatform();

  AttentionBackend& backend() { return *backend_; }
  Device& device() { return *device_; }

  // For handing both to a Server; the FakePlatform must outlive it, and backend() and device() are
  // then the server's.
  Platform TakePlatform();

  // Failures of everything that follows; OK ends them.
  void FailPlan(absl::Status status);
  void FailLaunch(absl::Status status);
  void FailCopy(absl::Status status);
  // Runs inside each Launch, for computing something. Set before the first.
  void OnLaunch(std::function<void(const AttentionParams&)> hook);
  // Benchmarks: remember nothing.
  void StopRecording();

  // Manual events: how many are recorded and not complete.
  int pending() const;
  // Completes the oldest pending event, waiting for one if there is none yet.
  void CompleteNext(absl::Status status = absl::OkStatus());
  // From now on events complete by themselves, pending ones too.
  void CompleteAll();

  // Blocks until `n` events have been recorded since the start: that many batches are launched.
  void WaitForLaunches(int64_t n) const;
  int64_t launches() const;
  std::vector<FakeStreamOp> ops() const;
  void ClearOps();

 private:
  friend class FakeBackend;
  friend class FakeStream;
  friend class FakeDevice;
  friend class FakeEvent;

  struct EventState {
    bool done = false;
    absl::Status status;
  };

  mutable std::mutex mu_;
  mutable std::condition_variable changed_;
  Completion completion_;
  absl::Status plan_status_, launch_status_, copy_status_;
  std::function<void(const AttentionParams&)> on_launch_;
  bool recording_ = true;
  std::vector<FakeStreamOp> ops_;
  std::deque<std::shared_ptr<EventState>> pending_;
  int64_t launches_ = 0;

  std::unique_ptr<AttentionBackend> owned_backend_;
  std::unique_ptr<Device> owned_device_;
  AttentionBackend* backend_;
  Device* device_;
};

}  // namespace attnd
