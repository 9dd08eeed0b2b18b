// SPDX-License-Identifier: Apache-2.0
#include "kernels/hip/simt_host/machine.h"

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "kernels/hip/simt_host/executor.h"
#include "kernels/hip/simt_host/machine_state.h"

namespace attnd::simt {
namespace {

uint64_t SeedFromEnvironment() {
  // tidy-allow(getenv): a test tool's seed, so that a failing run is repeated without a rebuild
  const char* text = std::getenv("ATTND_SIMT_SEED");
  const uint64_t seed = text == nullptr ? 0 : std::strtoull(text, nullptr, 10);
  return seed == 0 ? 1 : seed;
}

}  // namespace

Machine& Machine::Get() {
  // Never destroyed: static objects of the code under test may free device memory at exit.
  static Machine* const machine = new Machine;
  return *machine;
}

Machine::Machine() {
  MutexLock lock(mu_);
  SetUp(MachineOptions{});
}

void Machine::SetUp(const MachineOptions& options) {
  RunDevice(-1);
  options_ = options;
  seed_ = options.seed != 0 ? options.seed : SeedFromEnvironment();
  launches_ = 0;
  devices_.assign(static_cast<size_t>(options.num_devices), Device{});
  streams_.clear();
  events_.clear();
  lds_limits_.clear();
  report_.clear();
}

void Machine::SetFaults(int device, const FaultPlan& plan) {
  Device& d = devices_.at(static_cast<size_t>(device));
  d.plan = plan;
  d.allocations = d.host_allocations = d.launches = d.copies = 0;
}

hipError_t Machine::Sticky(int device) const {
  return devices_.at(static_cast<size_t>(device)).sticky;
}

int64_t Machine::LaunchCount(int device) const {
  return devices_.at(static_cast<size_t>(device)).launches_since_set_up;
}

// --------------------------------------------------------------------------------------- memory

hipError_t Machine::Allocate(int device, int planned_on, size_t size, void** data) {
  constexpr size_t kAlignment = 256;  // what HIP promises, and no more
  Device& planned = devices_.at(static_cast<size_t>(planned_on));
  const bool fails = device < 0 ? ++planned.host_allocations == planned.plan.failing_host_allocation
                                : ++planned.allocations == planned.plan.failing_allocation;
  *data = nullptr;
  if (fails || (device >= 0 && size > FreeBytes(device))) return hipErrorOutOfMemory;
  if (size == 0) return hipSuccess;
  const size_t rounded = (size + kAlignment - 1) / kAlignment * kAlignment;
  if (rounded < size) return hipErrorOutOfMemory;
  // Asked for to the byte, so that AddressSanitizer sees an access right behind the end.
  void* memory = nullptr;
  if (posix_memalign(&memory, kAlignment, size) != 0) return hipErrorOutOfMemory;
  FillWithNan(memory, size);
  allocations_[static_cast<std::byte*>(memory)] = {size, device};
  *data = memory;
  return hipSuccess;
}

hipError_t Machine::Free(bool host, void* data) {
  const auto it = allocations_.find(static_cast<std::byte*>(data));
  if (it == allocations_.end() || (it->second.device < 0) != host) return hipErrorInvalidValue;
  // HIP waits for the device before it takes memory away.
  RunDevice(it->second.device);
  allocations_.erase(it);
  std::free(data);
  return hipSuccess;
}

size_t Machine::Allocated(int device) const {
  size_t bytes = 0;
  for (const auto& [data, allocation] : allocations_) {
    if (allocation.device == device) bytes += allocation.size;
  }
  return bytes;
}

size_t Machine::FreeBytes(int device) const {
  const size_t used =
      Allocated(device) + devices_.at(static_cast<size_t>(device)).plan.bytes_used_by_others;
  return used > options_.memory_bytes ? 0 : options_.memory_bytes - used;
}

Machine::Place Machine::Locate(const void* data, size_t size) const {
  const auto* const begin = static_cast<const std::byte*>(data);
  auto it = allocations_.upper_bound(begin);
  if (it == allocations_.begin()) return Place::kPageable;
  --it;
  const auto offset = static_cast<size_t>(begin - it->first);
  if (offset >= it->second.size) return Place::kPageable;
  if (size > it->second.size - offset) return Place::kBeyond;
  return it->second.device < 0 ? Place::kPinned : Place::kDevice;
}

// --------------------------------------------------------------------------- streams and events

hipStream_t Machine::NewStream(int device, bool blocking) {
  auto stream = std::make_unique<ihipStream_t>(ihipStream_t{device, blocking, {}});
  hipStream_t handle = stream.get();
  streams_[handle] = std::move(stream);
  return handle;
}

void Machine::DestroyStream(hipStream_t stream) {
  RunStream(stream);
  streams_.erase(stream);
}

hipEvent_t Machine::NewEvent(int device, bool timing) {
  auto event = std::make_unique<ihipEvent_t>(ihipEvent_t{device, timing, nullptr});
  hipEvent_t handle = event.get();
  events_[handle] = std::move(event);
  return handle;
}

void Machine::Queue(hipStream_t stream, int device, Work work) {
  if (stream == nullptr) {
    RunDevice(device, /*blocking_only=*/true);
    Run(device, work);
    return;
  }
  stream->queue.push_back(std::move(work));
  if (options_.timing == Timing::kEager) RunStream(stream);
}

void Machine::RunStream(hipStream_t stream, const EventRecord* until) {
  while (!stream->queue.empty() && !(until != nullptr && until->done)) {
    Work work = std::move(stream->queue.front());
    stream->queue.pop_front();
    Run(stream->device, work);
  }
}

void Machine::RunDevice(int device, bool blocking_only) {
  for (const auto& [handle, stream] : streams_) {
    if (device >= 0 && stream->device != device) continue;
    if (!blocking_only || stream->blocking) RunStream(handle);
  }
}

void Machine::Run(int device, Work& work) {
  Device& d = devices_.at(static_cast<size_t>(device));
  switch (work.kind) {
    case Work::Kind::kWait:
      if (!work.event->done && IsStream(work.event->stream)) {
        RunStream(work.event->stream, work.event.get());
      }
      return;
    case Work::Kind::kRecord:
      work.event->time = Clock::Real().Now();
      work.event->done = true;
      return;
    case Work::Kind::kKernel:
      if (d.sticky != hipSuccess) return;
      ++d.launches_since_set_up;
      if (++d.launches == d.plan.failing_launch) {
        d.sticky = d.plan.sticky;
        return;
      }
      break;
    case Work::Kind::kCopy:
      if (d.sticky != hipSuccess) return;
      if (++d.copies == d.plan.failing_copy) {
        d.sticky = d.plan.sticky;
        return;
      }
      break;
  }
  const std::string report = work.run();
  if (report.empty()) return;
  d.sticky = hipErrorLaunchFailure;
  std::fprintf(stderr, "%s\n", report.c_str());
  if (report_.empty()) report_ = report;
}

// -------------------------------------------------------------------------------- what tests call

void SetUp(const MachineOptions& options) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  machine.SetUp(options);
}

MachineOptions Options() {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  return machine.options();
}

void SetFaults(int device, const FaultPlan& plan) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  machine.SetFaults(device, plan);
}

void RunPending(hipStream_t stream) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  machine.RunStream(stream);
}

void RunAllPending() {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  machine.RunDevice(-1);
}

size_t AllocatedBytes(int device) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  return machine.Allocated(device);
}

size_t AllocatedHostBytes() { return AllocatedBytes(-1); }

int64_t LaunchCount(int device) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  return machine.LaunchCount(device);
}

std::string LastReport() {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  return machine.report();
}

}  // namespace attnd::simt
