// SPDX-License-Identifier: Apache-2.0
//
// HIP's host API, as much of it as attnd uses, with the CPU's memory as device memory and a SIMT
// executor as the GPU. Found in place of ROCm's header by include path. Names and errors are HIP's;
// where HIP leaves room, this is the strict side of it:
//   - a stream, an event or an allocation belongs to the device that was current when it was made,
//     and a launch or a record with another device current is hipErrorInvalidHandle;
//   - queued work may run as late as HIP allows (simt::Timing), copies from pageable memory too;
//   - memory of hipMalloc and hipHostMalloc is poisoned with NaN bytes.
//
// Thread safety: HIP's. Any function from any thread; the current device is a thread's own.
#pragma once

#include <cstddef>
#include <functional>
#include <type_traits>

#include "kernels/hip/simt_host/qualifiers.h"

// NOLINTBEGIN(readability-identifier-naming): HIP's names

// An error is never passed over.
enum [[nodiscard]] hipError_t : int;
enum hipError_t : int {
  hipSuccess = 0,
  hipErrorInvalidValue = 1,
  hipErrorOutOfMemory = 2,
  hipErrorNotInitialized = 3,
  hipErrorDeinitialized = 4,
  hipErrorInvalidConfiguration = 9,
  hipErrorInsufficientDriver = 35,
  hipErrorInvalidDeviceFunction = 98,
  hipErrorNoDevice = 100,
  hipErrorInvalidDevice = 101,
  hipErrorInvalidHandle = 400,
  hipErrorNotReady = 600,
  hipErrorIllegalAddress = 700,
  hipErrorLaunchOutOfResources = 701,
  hipErrorLaunchTimeOut = 702,
  hipErrorAssert = 710,
  hipErrorLaunchFailure = 719,
  hipErrorNotSupported = 801,
  hipErrorUnknown = 999,
};

enum hipMemcpyKind {
  hipMemcpyHostToHost = 0,
  hipMemcpyHostToDevice = 1,
  hipMemcpyDeviceToHost = 2,
  hipMemcpyDeviceToDevice = 3,
  hipMemcpyDefault = 4,
};

enum hipFuncAttribute {
  hipFuncAttributeMaxDynamicSharedMemorySize = 8,
};

enum hipDeviceAttribute_t {
  hipDeviceAttributeMaxSharedMemoryPerBlock,
  hipDeviceAttributeMultiprocessorCount,
  hipDeviceAttributeWarpSize,
};

inline constexpr unsigned hipHostMallocDefault = 0x0;
inline constexpr unsigned hipHostMallocPortable = 0x1;
inline constexpr unsigned hipHostMallocMapped = 0x2;
inline constexpr unsigned hipStreamDefault = 0x0;
inline constexpr unsigned hipStreamNonBlocking = 0x1;
inline constexpr unsigned hipEventDefault = 0x0;
inline constexpr unsigned hipEventBlockingSync = 0x1;
inline constexpr unsigned hipEventDisableTiming = 0x2;

using hipStream_t =
    struct ihipStream_t*;  // nullptr: the default stream, which waits for all others
using hipEvent_t = struct ihipEvent_t*;

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

enum hipStreamCaptureStatus { hipStreamCaptureStatusNone, hipStreamCaptureStatusActive };

struct hipDeviceProp_t {
  char name[256];
  char gcnArchName[256];
  size_t totalGlobalMem;
  size_t sharedMemPerBlock;
  size_t sharedMemPerBlockOptin;
  size_t sharedMemPerMultiprocessor;
  int major, minor;
  int multiProcessorCount;
  int warpSize;
  int maxThreadsPerBlock;
  int regsPerBlock;
  int l2CacheSize;
  int clockRate;        // kHz
  int memoryClockRate;  // kHz
  int memoryBusWidth;   // bits
  int pciDomainID, pciBusID, pciDeviceID;
  int integrated;
  int canMapHostMemory;
};

// -------------------------------------------------------------------------------------- devices
hipError_t hipInit(unsigned flags);
hipError_t hipGetDeviceCount(int* count);
hipError_t hipSetDevice(int device);
hipError_t hipGetDevice(int* device);
hipError_t hipGetDeviceProperties(hipDeviceProp_t* properties, int device);
hipError_t hipDeviceGetAttribute(int* value, hipDeviceAttribute_t attribute, int device);
hipError_t hipDeviceGetPCIBusId(char* text, int length, int device);
hipError_t hipRuntimeGetVersion(int* version);
hipError_t hipDriverGetVersion(int* version);
hipError_t hipDeviceSynchronize();

// --------------------------------------------------------------------------------------- errors
hipError_t hipGetLastError();
hipError_t hipPeekAtLastError();
const char* hipGetErrorName(hipError_t error);
const char* hipGetErrorString(hipError_t error);

// --------------------------------------------------------------------------------------- memory
hipError_t hipMalloc(void** data, size_t size);
hipError_t hipFree(void* data);
hipError_t hipHostMalloc(void** data, size_t size, unsigned flags = hipHostMallocDefault);
hipError_t hipHostFree(void* data);
hipError_t hipHostGetDevicePointer(void** device_data, void* host_data, unsigned flags);
hipError_t hipMemGetInfo(size_t* free_bytes, size_t* total_bytes);

hipError_t hipMemcpy(void* to, const void* from, size_t size, hipMemcpyKind kind);
hipError_t hipMemcpyAsync(void* to, const void* from, size_t size, hipMemcpyKind kind,
                          hipStream_t stream = nullptr);
hipError_t hipMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                            size_t width, size_t height, hipMemcpyKind kind,
                            hipStream_t stream = nullptr);
hipError_t hipMemset(void* to, int value, size_t size);
hipError_t hipMemsetAsync(void* to, int value, size_t size, hipStream_t stream = nullptr);

template <class T>
hipError_t hipMalloc(T** data, size_t size) {
  return hipMalloc(reinterpret_cast<void**>(data), size);
}
template <class T>
hipError_t hipHostMalloc(T** data, size_t size, unsigned flags = hipHostMallocDefault) {
  return hipHostMalloc(reinterpret_cast<void**>(data), size, flags);
}

// --------------------------------------------------------------------------- streams and events
hipError_t hipStreamCreate(hipStream_t* stream);
hipError_t hipStreamCreateWithFlags(hipStream_t* stream, unsigned flags);
hipError_t hipStreamDestroy(hipStream_t stream);
hipError_t hipStreamQuery(hipStream_t stream);
hipError_t hipStreamSynchronize(hipStream_t stream);
// Nothing is ever captured here.
hipError_t hipStreamIsCapturing(hipStream_t stream, hipStreamCaptureStatus* status);
hipError_t hipStreamWaitEvent(hipStream_t stream, hipEvent_t event, unsigned flags = 0);

hipError_t hipEventCreate(hipEvent_t* event);
hipError_t hipEventCreateWithFlags(hipEvent_t* event, unsigned flags);
hipError_t hipEventDestroy(hipEvent_t event);
hipError_t hipEventRecord(hipEvent_t event, hipStream_t stream = nullptr);
hipError_t hipEventQuery(hipEvent_t event);
hipError_t hipEventSynchronize(hipEvent_t event);
hipError_t hipEventElapsedTime(float* milliseconds, hipEvent_t start, hipEvent_t stop);

// -------------------------------------------------------------------------------------- kernels
hipError_t hipFuncSetAttribute(const void* kernel, hipFuncAttribute attribute, int value);

// NOLINTEND(readability-identifier-naming)

namespace attnd::simt {

// A launch with the kernel's arguments bound: `run_lane` is called once in each lane.
struct Launch {
  const void* kernel = nullptr;  // its address, which names it to hipFuncSetAttribute
  unsigned grid = 0;             // blocks
  unsigned block = 0;            // lanes of a block, whole waves
  size_t lds_bytes = 0;
  std::function<void()> run_lane;
};
hipError_t Queue(Launch launch, hipStream_t stream);

}  // namespace attnd::simt

namespace attnd::gpu {

// Queues a kernel, with a copy of its arguments. Errors of the launch itself are returned:
// hipErrorInvalidConfiguration (no blocks, no lanes, lanes that are no whole waves or beyond 1024),
// hipErrorInvalidValue (more LDS than a block may have; beyond sharedMemPerBlock only after
// hipFuncSetAttribute). What goes wrong in the kernel breaks the device.
template <class Args>
hipError_t LaunchKernel(void (*kernel)(Args), unsigned grid, unsigned block, size_t lds_bytes,
                        hipStream_t stream, const std::type_identity_t<Args>& args) {
  static_assert(std::is_trivially_copyable_v<Args>, "a kernel takes one plain struct");
  return simt::Queue({.kernel = reinterpret_cast<const void*>(kernel),
                      .grid = grid,
                      .block = block,
                      .lds_bytes = lds_bytes,
                      .run_lane = [kernel, args] { kernel(args); }},
                     stream);
}

}  // namespace attnd::gpu
