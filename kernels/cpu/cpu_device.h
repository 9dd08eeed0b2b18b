// SPDX-License-Identifier: Apache-2.0
//
// Host memory and the threads that compute on it, as a Device.
//
// Allocate gives zeroed, 2 MiB aligned memory that asks for huge pages. A stream runs its work at
// once, on the calling thread helped by the pool: whatever was launched is done when the call
// returns, and its Event has already passed. Thread safety: that of Device; work of different
// streams shares one pool and takes turns.
//
//   std::unique_ptr<CpuDevice> device = MakeCpuDevice({.num_threads = 2});
//   ATTND_ASSIGN_OR_RETURN(Buffer pool, device->Allocate(Bytes(uint64_t{1} << 30)));
//   std::unique_ptr<AttentionBackend> backend = MakeCpuBackend(*device);
#pragma once

#include <memory>

#include "absl/base/thread_annotations.h"
#include "kernels/backend/device.h"
#include "kernels/base/mutex.h"
#include "kernels/cpu/thread_pool.h"

namespace attnd {

struct CpuDeviceOptions {
  int num_threads = 0;    // that compute, the caller of Launch included; 0: all usable CPUs
  Bytes memory_limit{0};  // most that Allocate gives out at one time; 0: all usable memory
};

class CpuDevice final : public Device {
 public:
  explicit CpuDevice(const CpuDeviceOptions& options);
  ~CpuDevice() override;

  const DeviceInfo& info() const override { return info_; }
  absl::StatusOr<Buffer> Allocate(Bytes size) override ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<Buffer> AllocateHost(Bytes size) override;
  absl::StatusOr<std::unique_ptr<Stream>> NewStream() override;

  // The pool outlives every stream and backend made from this device.
  ThreadPool& pool() { return pool_; }

 private:
  static void FreeBuffer(void* context, std::byte* data, Bytes size);

  ThreadPool pool_;
  DeviceInfo info_;
  Mutex mu_;
  Bytes allocated_ ABSL_GUARDED_BY(mu_){0};
};

std::unique_ptr<CpuDevice> MakeCpuDevice(const CpuDeviceOptions& options);

}  // namespace attnd
