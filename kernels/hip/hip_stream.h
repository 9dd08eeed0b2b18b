// SPDX-License-Identifier: Apache-2.0
//
// A HIP stream as a Stream, and the events that are recorded on it.
//
// Events come from a pool that belongs to the device, so that Record creates none in a steady
// state; an Event gives its own back when it goes, which is before the device does.
// Thread safety: a stream belongs to one thread at a time, an event is asked from any, the pool is
// thread-safe.
//
//   auto& hip = static_cast<HipStream&>(stream);   // of the Stream that HipDevice made
//   ATTND_RETURN_IF_ERROR(hip.Use());
//   ATTND_RETURN_IF_HIP_ERROR(hip.fence(), gpu::LaunchKernel(..., hip.handle(), args));
#pragma once

#include <hip/hip_runtime.h>

#include <memory>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend/device.h"
#include "kernels/base/mutex.h"
#include "kernels/hip/hip_status.h"

namespace attnd {

class HipEventPool {
 public:
  // `fence` is the device's and outlives the pool.
  explicit HipEventPool(HipFence& fence) : fence_(fence) {}
  ~HipEventPool();
  HipEventPool(const HipEventPool&) = delete;
  HipEventPool& operator=(const HipEventPool&) = delete;

  // Creates what a stream's launches use at a time. New events are the current device's: it is the
  // pool's own.
  absl::Status Reserve() ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<hipEvent_t> Take() ABSL_LOCKS_EXCLUDED(mu_);
  void GiveBack(hipEvent_t event) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  HipFence& fence_;
  Mutex mu_;
  std::vector<hipEvent_t> free_ ABSL_GUARDED_BY(mu_);
};

class HipStream final : public Stream {
 public:
  // Takes `handle` over.
  HipStream(hipStream_t handle, int ordinal, HipFence& fence, HipEventPool& events)
      : handle_(handle), ordinal_(ordinal), fence_(fence), events_(events) {}
  // Waits for what is queued.
  ~HipStream() override;

  absl::Status CopyPages(std::span<const PageCopy> copies) override;
  absl::StatusOr<std::unique_ptr<Event>> Record() override;

  // What is queued from now on starts after `event`, of another stream of the device.
  absl::Status WaitFor(const Event& event);
  // Whether work that is queued now would wait for other work. Not while a graph is captured.
  absl::StatusOr<bool> IsBusy();
  // Makes the stream's device the calling thread's current one.
  absl::Status Use();
  hipStream_t handle() const { return handle_; }
  HipFence& fence() { return fence_; }

 private:
  hipStream_t handle_;
  const int ordinal_;
  HipFence& fence_;
  HipEventPool& events_;
};

}  // namespace attnd
