// SPDX-License-Identifier: Apache-2.0
//
// The simulated machine behind simt_host's HIP API, as tests set it up: which core its devices
// have, how many there are, how late asynchronous work runs, and what fails when. Kernels and host
// code never see this header.
//
// Thread safety: all functions may be called from any thread. SetUp must not run while another
// thread is inside the HIP API.
//
//   simt::SetUp({.core = simt::Core::kGfx942, .num_devices = 2, .timing = simt::Timing::kLazy});
//   simt::SetFaults(0, {.failing_launch = 3});
//   ... code under test ...
//   EXPECT_EQ(simt::LastReport(), "");
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/hip/simt_host/hip/hip_runtime.h"

namespace attnd::simt {

// What a device says it is: gcnArchName, name, wave size and LDS.
enum class Core { kGfx1100, kGfx1201, kGfx942, kGfx950, kSm90 };

// When queued work (copies, kernels, records) really runs.
enum class Timing {
  kEager,  // at once, inside the call that queues it
  // As late as HIP allows: when somebody waits for it (a synchronization, a free), asks often
  // enough (MachineOptions::queries_before_done) or calls RunPending. Shows buffers that were
  // reused or freed too early, and missing waits between streams.
  kLazy,
};

struct MachineOptions {
  Core core = Core::kGfx1100;
  int num_devices = 1;
  size_t memory_bytes = size_t{256} << 20;  // of each device
  Timing timing = Timing::kEager;
  // kLazy: hipEventQuery says hipErrorNotReady this often before it lets an event's stream run.
  int queries_before_done = 2;
  // Order in which waves and lanes run. 0: $ATTND_SIMT_SEED, or 1 without it.
  uint64_t seed = 0;
};

// What goes wrong on one device. Counts start at 1, from the call of SetFaults; 0 is never.
struct FaultPlan {
  int64_t failing_allocation = 0;       // the n-th hipMalloc gives hipErrorOutOfMemory
  int64_t failing_host_allocation = 0;  // likewise hipHostMalloc, while this device is current
  // hipMemGetInfo says that others use this much of the device, and hipMalloc heeds it.
  size_t bytes_used_by_others = 0;
  // The n-th launch, or the n-th copy or fill, breaks the device when it runs: from then on each
  // call on it returns `sticky` until the next SetUp, as HIP does until the process ends.
  int64_t failing_launch = 0;
  int64_t failing_copy = 0;
  hipError_t sticky = hipErrorIllegalAddress;
};

// A fresh machine: devices work, no faults are planned, no work is pending, streams of before are
// invalid. Memory that is still allocated stays so, and counts.
void SetUp(const MachineOptions& options);
MachineOptions Options();

void SetFaults(int device, const FaultPlan& plan);

// Runs what is queued on a stream (or on all streams of all devices) under Timing::kLazy.
void RunPending(hipStream_t stream);
void RunAllPending();

// Bytes of device memory (of one device) and of pinned host memory that are allocated now.
size_t AllocatedBytes(int device);
size_t AllocatedHostBytes();

// Kernels launched on a device since SetUp: queued ones count once they run.
int64_t LaunchCount(int device);

// What the executor found wrong with a kernel (divergence, an access outside LDS, operands that
// break a layout) since SetUp, first finding only; empty if nothing. It also goes to stderr, and
// the device is broken from then on with hipErrorLaunchFailure.
std::string LastReport();

}  // namespace attnd::simt
