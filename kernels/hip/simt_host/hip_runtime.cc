// SPDX-License-Identifier: Apache-2.0
//
// The HIP API over machine_state.h: checks what HIP checks, on the strict side, and keeps a
// thread's current device and last error.
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "kernels/hip/simt_host/executor.h"
#include "kernels/hip/simt_host/hip/hip_runtime.h"
#include "kernels/hip/simt_host/machine_state.h"

using attnd::MutexLock;
using attnd::simt::EventRecord;
using attnd::simt::Machine;
using attnd::simt::Work;

namespace {

thread_local int current_device = 0;
thread_local hipError_t last_error = hipSuccess;

hipError_t Note(hipError_t error) {
  if (error != hipSuccess && error != hipErrorNotReady) last_error = error;
  return error;
}

// The current device, if it is there and not broken.
hipError_t Enter(Machine& machine, int* device) ABSL_EXCLUSIVE_LOCKS_REQUIRED(machine.mu()) {
  if (machine.num_devices() == 0) return Note(hipErrorNoDevice);
  // A thread may have seen a machine with more devices.
  if (current_device >= machine.num_devices()) current_device = 0;
  *device = current_device;
  return Note(machine.Sticky(current_device));
}

// The same for a call on a stream, which names its device; nullptr is the current device's.
hipError_t EnterStream(Machine& machine, hipStream_t stream, int* device)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(machine.mu()) {
  if (stream == nullptr) return Enter(machine, device);
  if (!machine.IsStream(stream)) return Note(hipErrorInvalidHandle);
  *device = stream->device;
  return Note(machine.Sticky(stream->device));
}

hipError_t QueueCopy(hipStream_t stream, std::function<std::string()> run) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  int device = 0;
  if (const hipError_t error = EnterStream(machine, stream, &device)) return error;
  machine.Queue(stream, device, {Work::Kind::kCopy, std::move(run), nullptr});
  return hipSuccess;
}

// Whether [data, data + size) may be that side of a copy of `kind`.
bool CheckSide(const void* data, size_t size, bool device_side, hipMemcpyKind kind) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  const Machine::Place place = machine.Locate(data, size);
  if (data == nullptr || place == Machine::Place::kBeyond) return false;
  return kind == hipMemcpyDefault || (place == Machine::Place::kDevice) == device_side;
}

bool CheckCopy(const void* to, size_t to_size, const void* from, size_t from_size,
               hipMemcpyKind kind) {
  const bool to_device = kind == hipMemcpyHostToDevice || kind == hipMemcpyDeviceToDevice;
  const bool from_device = kind == hipMemcpyDeviceToHost || kind == hipMemcpyDeviceToDevice;
  return CheckSide(to, to_size, to_device, kind) && CheckSide(from, from_size, from_device, kind);
}

}  // namespace

// --------------------------------------------------------------------------------------- errors

hipError_t hipGetLastError() { return std::exchange(last_error, hipSuccess); }
hipError_t hipPeekAtLastError() { return last_error; }

// --------------------------------------------------------------------------------------- memory

hipError_t hipMalloc(void** data, size_t size) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  int device = 0;
  if (const hipError_t error = Enter(machine, &device)) return error;
  if (data == nullptr) return Note(hipErrorInvalidValue);
  return Note(machine.Allocate(device, device, size, data));
}

hipError_t hipHostMalloc(void** data, size_t size, unsigned /*flags*/) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  int device = 0;
  if (const hipError_t error = Enter(machine, &device)) return error;
  if (data == nullptr) return Note(hipErrorInvalidValue);
  return Note(machine.Allocate(-1, device, size, data));
}

namespace {

hipError_t Free(bool host, void* data) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  if (data == nullptr) return hipSuccess;
  // A broken device gives its memory back too, but says that it is broken.
  int device = 0;
  const hipError_t sticky = Enter(machine, &device);
  const hipError_t error = machine.Free(host, data);
  return sticky != hipSuccess ? sticky : Note(error);
}

}  // namespace

hipError_t hipFree(void* data) { return Free(false, data); }
hipError_t hipHostFree(void* data) { return Free(true, data); }

hipError_t hipHostGetDevicePointer(void** device_data, void* host_data, unsigned /*flags*/) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  if (device_data == nullptr || machine.Locate(host_data, 1) != Machine::Place::kPinned) {
    return Note(hipErrorInvalidValue);
  }
  *device_data = host_data;
  return hipSuccess;
}

hipError_t hipMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  int device = 0;
  if (const hipError_t error = Enter(machine, &device)) return error;
  *free_bytes = machine.FreeBytes(device);
  *total_bytes = machine.options().memory_bytes;
  return hipSuccess;
}

hipError_t hipMemcpyAsync(void* to, const void* from, size_t size, hipMemcpyKind kind,
                          hipStream_t stream) {
  if (size == 0) return hipSuccess;
  if (!CheckCopy(to, size, from, size, kind)) return Note(hipErrorInvalidValue);
  return QueueCopy(stream, [=] {
    std::memcpy(to, from, size);
    return std::string();
  });
}

hipError_t hipMemcpy(void* to, const void* from, size_t size, hipMemcpyKind kind) {
  return hipMemcpyAsync(to, from, size, kind, nullptr);
}

hipError_t hipMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                            size_t width, size_t height, hipMemcpyKind kind, hipStream_t stream) {
  if (width == 0 || height == 0) return hipSuccess;
  if (width > to_pitch || width > from_pitch ||
      !CheckCopy(to, to_pitch * (height - 1) + width, from, from_pitch * (height - 1) + width,
                 kind)) {
    return Note(hipErrorInvalidValue);
  }
  return QueueCopy(stream, [=] {
    for (size_t row = 0; row < height; ++row) {
      std::memcpy(static_cast<std::byte*>(to) + row * to_pitch,
                  static_cast<const std::byte*>(from) + row * from_pitch, width);
    }
    return std::string();
  });
}

hipError_t hipMemsetAsync(void* to, int value, size_t size, hipStream_t stream) {
  if (size == 0) return hipSuccess;
  if (!CheckSide(to, size, true, hipMemcpyHostToDevice)) return Note(hipErrorInvalidValue);
  return QueueCopy(stream, [=] {
    std::memset(to, value, size);
    return std::string();
  });
}

hipError_t hipMemset(void* to, int value, size_t size) {
  return hipMemsetAsync(to, value, size, nullptr);
}

// --------------------------------------------------------------------------- streams and events

hipError_t hipStreamCreateWithFlags(hipStream_t* stream, unsigned flags) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  int device = 0;
  if (const hipError_t error = Enter(machine, &device)) return error;
  *stream = machine.NewStream(device, (flags & hipStreamNonBlocking) == 0);
  return hipSuccess;
}

hipError_t hipStreamCreate(hipStream_t* stream) {
  return hipStreamCreateWithFlags(stream, hipStreamDefault);
}

hipError_t hipStreamDestroy(hipStream_t stream) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  if (!machine.IsStream(stream)) return Note(hipErrorInvalidHandle);
  const hipError_t sticky = machine.Sticky(stream->device);
  machine.DestroyStream(stream);
  return Note(sticky);
}

hipError_t hipStreamQuery(hipStream_t stream) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  int device = 0;
  if (const hipError_t error = EnterStream(machine, stream, &device)) return error;
  if (stream == nullptr || stream->queue.empty()) return hipSuccess;
  machine.RunStream(stream);  // who asks again sees progress
  return hipErrorNotReady;
}

hipError_t hipStreamSynchronize(hipStream_t stream) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  int device = 0;
  if (const hipError_t error = EnterStream(machine, stream, &device)) return error;
  if (stream != nullptr) {
    machine.RunStream(stream);
  } else {
    machine.RunDevice(device, /*blocking_only=*/true);
  }
  return Note(machine.Sticky(device));
}

hipError_t hipDeviceSynchronize() {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  int device = 0;
  if (const hipError_t error = Enter(machine, &device)) return error;
  machine.RunDevice(device);
  return Note(machine.Sticky(device));
}

hipError_t hipStreamIsCapturing(hipStream_t stream, hipStreamCaptureStatus* status) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  int device = 0;
  if (const hipError_t error = EnterStream(machine, stream, &device)) return error;
  *status = hipStreamCaptureStatusNone;
  return hipSuccess;
}

hipError_t hipStreamWaitEvent(hipStream_t stream, hipEvent_t event, unsigned /*flags*/) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  int device = 0;
  if (const hipError_t error = EnterStream(machine, stream, &device)) return error;
  if (!machine.IsEvent(event)) return Note(hipErrorInvalidHandle);
  if (event->record != nullptr) {
    machine.Queue(stream, device, {Work::Kind::kWait, nullptr, event->record});
  }
  return hipSuccess;
}

hipError_t hipEventCreateWithFlags(hipEvent_t* event, unsigned flags) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  int device = 0;
  if (const hipError_t error = Enter(machine, &device)) return error;
  *event = machine.NewEvent(device, (flags & hipEventDisableTiming) == 0);
  return hipSuccess;
}

hipError_t hipEventCreate(hipEvent_t* event) {
  return hipEventCreateWithFlags(event, hipEventDefault);
}

hipError_t hipEventDestroy(hipEvent_t event) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  if (!machine.IsEvent(event)) return Note(hipErrorInvalidHandle);
  const hipError_t sticky = machine.Sticky(event->device);
  machine.DestroyEvent(event);
  return Note(sticky);
}

hipError_t hipEventRecord(hipEvent_t event, hipStream_t stream) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  int device = 0;
  if (const hipError_t error = EnterStream(machine, stream, &device)) return error;
  if (!machine.IsEvent(event) || event->device != device) return Note(hipErrorInvalidHandle);
  event->record = std::make_shared<EventRecord>();
  event->record->stream = stream;
  machine.Queue(stream, device, {Work::Kind::kRecord, nullptr, event->record});
  return hipSuccess;
}

namespace {

// `waits`: runs the stream up to the event; else that happens once it was asked often enough.
hipError_t AskEvent(hipEvent_t event, bool waits) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  if (!machine.IsEvent(event)) return Note(hipErrorInvalidHandle);
  if (const hipError_t error = machine.Sticky(event->device)) return Note(error);
  EventRecord* const record = event->record.get();
  if (record == nullptr || record->done) return hipSuccess;
  if (!waits && record->queries++ < machine.options().queries_before_done) return hipErrorNotReady;
  machine.RunStream(record->stream, record);
  return Note(machine.Sticky(event->device));
}

}  // namespace

hipError_t hipEventQuery(hipEvent_t event) { return AskEvent(event, false); }
hipError_t hipEventSynchronize(hipEvent_t event) { return AskEvent(event, true); }

hipError_t hipEventElapsedTime(float* milliseconds, hipEvent_t start, hipEvent_t stop) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  for (hipEvent_t event : {start, stop}) {
    if (!machine.IsEvent(event) || !event->timing || event->record == nullptr) {
      return Note(hipErrorInvalidHandle);
    }
    if (!event->record->done) return hipErrorNotReady;
  }
  *milliseconds =
      std::chrono::duration<float, std::milli>(stop->record->time - start->record->time).count();
  return hipSuccess;
}

// -------------------------------------------------------------------------------------- devices

hipError_t hipInit(unsigned /*flags*/) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  return Note(machine.num_devices() == 0 ? hipErrorNoDevice : hipSuccess);
}

hipError_t hipGetDeviceCount(int* count) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  *count = machine.num_devices();
  return Note(*count == 0 ? hipErrorNoDevice : hipSuccess);
}

hipError_t hipSetDevice(int device) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  if (device < 0 || device >= machine.num_devices()) return Note(hipErrorInvalidDevice);
  current_device = device;
  return hipSuccess;
}

hipError_t hipGetDevice(int* device) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  if (machine.num_devices() == 0) return Note(hipErrorNoDevice);
  *device = current_device < machine.num_devices() ? current_device : 0;
  return hipSuccess;
}

// -------------------------------------------------------------------------------------- kernels

hipError_t hipFuncSetAttribute(const void* kernel, hipFuncAttribute attribute, int value) {
  hipDeviceProp_t properties;
  int device = 0;
  if (const hipError_t error = hipGetDevice(&device)) return error;
  if (const hipError_t error = hipGetDeviceProperties(&properties, device)) return error;
  if (kernel == nullptr) return Note(hipErrorInvalidDeviceFunction);
  if (attribute != hipFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
      static_cast<size_t>(value) > properties.sharedMemPerBlockOptin) {
    return Note(hipErrorInvalidValue);
  }
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  machine.LdsLimit(device, kernel) = static_cast<size_t>(value);
  return hipSuccess;
}

namespace attnd::simt {

hipError_t Queue(Launch launch, hipStream_t stream) {
  hipDeviceProp_t properties;
  int current = 0;
  if (const hipError_t error = hipGetDevice(&current)) return error;
  if (const hipError_t error = hipGetDeviceProperties(&properties, current)) return error;
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  int device = 0;
  if (const hipError_t error = EnterStream(machine, stream, &device)) return error;
  if (device != current) return Note(hipErrorInvalidHandle);
  if (launch.kernel == nullptr) return Note(hipErrorInvalidDeviceFunction);
  if (launch.grid == 0 || launch.block == 0 || launch.block > kMaxBlockLanes ||
      launch.block % static_cast<unsigned>(properties.warpSize) != 0) {
    return Note(hipErrorInvalidConfiguration);
  }
  if (launch.lds_bytes > properties.sharedMemPerBlock &&
      launch.lds_bytes > machine.LdsLimit(device, launch.kernel)) {
    return Note(hipErrorInvalidValue);
  }
  GridLaunch grid{.grid = launch.grid,
                  .block = launch.block,
                  .wave_size = properties.warpSize,
                  .lds_bytes = launch.lds_bytes,
                  .seed = machine.NextSeed(),
                  .run_lane = std::move(launch.run_lane)};
  machine.Queue(stream, device,
                {Work::Kind::kKernel, [grid = std::move(grid)] { return RunGrid(grid); }, nullptr});
  return hipSuccess;
}

}  // namespace attnd::simt
