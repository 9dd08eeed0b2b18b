// SPDX-License-Identifier: Apache-2.0
#include "kernels/hip/hip_stream.h"

#include <chrono>
#include <cstddef>
#include <utility>

#include "kernels/base/status_macros.h"

namespace attnd {
namespace {

// A stream has a few launches in flight, and a few events whose batch is being finished.
constexpr size_t kEventsPerStream = 8;

// How long Wait asks again and again before it lets the thread sleep: waking one takes as long as a
// short launch.
constexpr std::chrono::microseconds kSpin(100);

class HipEvent final : public Event {
 public:
  HipEvent(hipEvent_t handle, HipFence& fence, HipEventPool& events)
      : handle_(handle), fence_(fence), events_(events) {}
  ~HipEvent() override { events_.GiveBack(handle_); }

  // Done where it failed, too: Wait then says so.
  bool Done() const override {
    return !fence_.status().ok() || hipEventQuery(handle_) != hipErrorNotReady;
  }

  hipEvent_t handle() const { return handle_; }

  absl::Status Wait() override {
    using SteadyClock = std::chrono::steady_clock;
    const SteadyClock::time_point sleep_at = SteadyClock::now() + kSpin;
    while (!Done()) {
      if (SteadyClock::now() < sleep_at) continue;
      ATTND_RETURN_IF_HIP_ERROR(fence_, hipEventSynchronize(handle_));
      return absl::OkStatus();
    }
    ATTND_RETURN_IF_HIP_ERROR(fence_, hipEventQuery(handle_));
    return absl::OkStatus();
  }

 private:
  hipEvent_t handle_;
  HipFence& fence_;
  HipEventPool& events_;
};

}  // namespace

HipEventPool::~HipEventPool() {
  MutexLock lock(mu_);
  for (hipEvent_t event : free_) (void)hipEventDestroy(event);
}

absl::Status HipEventPool::Reserve() {
  std::vector<hipEvent_t> events;
  for (size_t i = 0; i < kEventsPerStream; ++i) {
    ATTND_ASSIGN_OR_RETURN(hipEvent_t event, Take());
    events.push_back(event);
  }
  for (hipEvent_t event : events) GiveBack(event);
  return absl::OkStatus();
}

absl::StatusOr<hipEvent_t> HipEventPool::Take() {
  {
    MutexLock lock(mu_);
    if (!free_.empty()) {
      hipEvent_t event = free_.back();
      free_.pop_back();
      return event;
    }
  }
  hipEvent_t event = nullptr;
  ATTND_RETURN_IF_HIP_ERROR(
      fence_, hipEventCreateWithFlags(&event, hipEventDisableTiming | hipEventBlockingSync));
  return event;
}

void HipEventPool::GiveBack(hipEvent_t event) {
  MutexLock lock(mu_);
  free_.push_back(event);
}

HipStream::~HipStream() {
  (void)hipStreamSynchronize(handle_);
  (void)hipStreamDestroy(handle_);
}

absl::Status HipStream::Use() {
  ATTND_RETURN_IF_HIP_ERROR(fence_, hipSetDevice(ordinal_));
  return absl::OkStatus();
}

absl::Status HipStream::CopyPages(std::span<const PageCopy> copies) {
  ATTND_RETURN_IF_ERROR(Use());
  for (const PageCopy& copy : copies) {
    ATTND_RETURN_IF_HIP_ERROR(
        fence_,
        hipMemcpy2DAsync(copy.destination, copy.layer_stride_bytes, copy.source,
                         copy.layer_stride_bytes, copy.row_bytes,
                         static_cast<size_t>(copy.num_layers), hipMemcpyDeviceToDevice, handle_));
  }
  return absl::OkStatus();
}

absl::Status HipStream::WaitFor(const Event& event) {
  ATTND_RETURN_IF_ERROR(Use());
  ATTND_RETURN_IF_HIP_ERROR(
      fence_, hipStreamWaitEvent(handle_, static_cast<const HipEvent&>(event).handle(), 0));
  return absl::OkStatus();
}

absl::StatusOr<bool> HipStream::IsBusy() {
  ATTND_RETURN_IF_ERROR(Use());
  hipStreamCaptureStatus capture = hipStreamCaptureStatusNone;
  ATTND_RETURN_IF_HIP_ERROR(fence_, hipStreamIsCapturing(handle_, &capture));
  if (capture != hipStreamCaptureStatusNone) return false;  // and it must not be asked
  const hipError_t error = hipStreamQuery(handle_);
  if (error == hipErrorNotReady) return true;
  ATTND_RETURN_IF_HIP_ERROR(fence_, error);
  return false;
}

absl::StatusOr<std::unique_ptr<Event>> HipStream::Record() {
  ATTND_RETURN_IF_ERROR(Use());
  ATTND_ASSIGN_OR_RETURN(hipEvent_t handle, events_.Take());
  auto event = std::make_unique<HipEvent>(handle, fence_, events_);
  ATTND_RETURN_IF_HIP_ERROR(fence_, hipEventRecord(handle, handle_));
  return event;
}

}  // namespace attnd
