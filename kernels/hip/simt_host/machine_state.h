// SPDX-License-Identifier: Apache-2.0
//
// What is behind the HIP API: devices, allocations, streams and their queued work. hip_runtime.cc
// turns API calls into calls of this; tests use machine.h.
//
// Thread safety: every member needs mu(), which is held while kernels run too: there is one
// executor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "kernels/base/clock.h"
#include "kernels/base/mutex.h"
#include "kernels/hip/simt_host/hip/hip_runtime.h"
#include "kernels/hip/simt_host/machine.h"

namespace attnd::simt {

// One hipEventRecord.
struct EventRecord {
  hipStream_t stream = nullptr;
  bool done = false;
  int queries = 0;
  MonotonicTime time{};
};

// An item of a stream's queue. Kernels and copies have `run`, which returns a report of what went
// wrong; a record has `done`; a wait has `wait_for`.
struct Work {
  enum class Kind { kKernel, kCopy, kRecord, kWait } kind;
  std::function<std::string()> run;
  std::shared_ptr<EventRecord> event;
};

}  // namespace attnd::simt

// NOLINTNEXTLINE(readability-identifier-naming): HIP's name
struct ihipStream_t {
  int device;
  bool blocking;  // the default stream waits for it
  std::deque<attnd::simt::Work> queue;
};

// NOLINTNEXTLINE(readability-identifier-naming): HIP's name
struct ihipEvent_t {
  int device;
  bool timing;
  std::shared_ptr<attnd::simt::EventRecord> record;  // the last one
};

namespace attnd::simt {

class Machine {
 public:
  static Machine& Get();

  Mutex& mu() ABSL_LOCK_RETURNED(mu_) { return mu_; }

  void SetUp(const MachineOptions& options) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  const MachineOptions& options() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return options_; }
  void SetFaults(int device, const FaultPlan& plan) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  int num_devices() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return static_cast<int>(devices_.size());
  }
  // What each call on a broken device returns.
  hipError_t Sticky(int device) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  int64_t LaunchCount(int device) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  const std::string& report() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return report_; }

  // Device memory, and with device -1 pinned host memory. `planned_on` is the device whose fault
  // plan counts the call.
  hipError_t Allocate(int device, int planned_on, size_t size, void** data)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  hipError_t Free(bool host, void* data) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  size_t Allocated(int device) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  size_t FreeBytes(int device) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Whether `data` lies in device memory. `size` bytes from it on must then lie in one allocation.
  enum class Place { kPageable, kPinned, kDevice, kBeyond };
  Place Locate(const void* data, size_t size) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  hipStream_t NewStream(int device, bool blocking) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void DestroyStream(hipStream_t stream) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool IsStream(hipStream_t stream) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return streams_.contains(stream);
  }
  hipEvent_t NewEvent(int device, bool timing) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void DestroyEvent(hipEvent_t event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { events_.erase(event); }
  bool IsEvent(hipEvent_t event) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return events_.contains(event);
  }

  // On a stream, or with nullptr on the default stream of `device`.
  void Queue(hipStream_t stream, int device, Work work) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Runs a stream's work up to `until`, or all of it.
  void RunStream(hipStream_t stream, const EventRecord* until = nullptr)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Those of a device (-1: of all devices).
  void RunDevice(int device, bool blocking_only = false) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  uint64_t NextSeed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return seed_ + launches_++; }

  // How much LDS a launch of `kernel` on `device` may have; 0 where nobody set it.
  size_t& LdsLimit(int device, const void* kernel) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return lds_limits_[{device, kernel}];
  }

 private:
  struct Device {
    hipError_t sticky = hipSuccess;
    FaultPlan plan;
    // Since the plan was set.
    int64_t allocations = 0;
    int64_t host_allocations = 0;
    int64_t launches = 0;
    int64_t copies = 0;
    int64_t launches_since_set_up = 0;
  };
  struct Allocation {
    size_t size;
    int device;
  };

  Machine();
  void Run(int device, Work& work) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Mutex mu_;
  MachineOptions options_ ABSL_GUARDED_BY(mu_);
  uint64_t seed_ ABSL_GUARDED_BY(mu_) = 1;
  uint64_t launches_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<Device> devices_ ABSL_GUARDED_BY(mu_);
  std::map<const std::byte*, Allocation> allocations_ ABSL_GUARDED_BY(mu_);
  std::map<hipStream_t, std::unique_ptr<ihipStream_t>> streams_ ABSL_GUARDED_BY(mu_);
  std::map<hipEvent_t, std::unique_ptr<ihipEvent_t>> events_ ABSL_GUARDED_BY(mu_);
  std::map<std::pair<int, const void*>, size_t> lds_limits_ ABSL_GUARDED_BY(mu_);
  std::string report_ ABSL_GUARDED_BY(mu_);
};

}  // namespace attnd::simt
