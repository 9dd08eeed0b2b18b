// SPDX-License-Identifier: Apache-2.0
//
// HIP's names for CUDA: what attnd's host code and kernels call, and no more. Found in place of
// ROCm's header by include path, by nvcc and by the host compiler alike. HIP's own header for
// NVIDIA does not compile with CUDA 13.
//
// Thread safety: CUDA's. Errors are CUDA's numbers under HIP's names.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdio>

// NOLINTBEGIN(readability-identifier-naming): HIP's names
using hipError_t = cudaError_t;
using hipStream_t = cudaStream_t;
using hipEvent_t = cudaEvent_t;
using hipMemcpyKind = cudaMemcpyKind;
using hipStreamCaptureStatus = cudaStreamCaptureStatus;

inline constexpr hipError_t hipSuccess = cudaSuccess;
inline constexpr hipError_t hipErrorInvalidValue = cudaErrorInvalidValue;
inline constexpr hipError_t hipErrorOutOfMemory = cudaErrorMemoryAllocation;
inline constexpr hipError_t hipErrorInvalidConfiguration = cudaErrorInvalidConfiguration;
inline constexpr hipError_t hipErrorInsufficientDriver = cudaErrorInsufficientDriver;
inline constexpr hipError_t hipErrorInvalidDeviceFunction = cudaErrorInvalidDeviceFunction;
inline constexpr hipError_t hipErrorNoDevice = cudaErrorNoDevice;
inline constexpr hipError_t hipErrorInvalidDevice = cudaErrorInvalidDevice;
inline constexpr hipError_t hipErrorInvalidHandle = cudaErrorInvalidResourceHandle;
inline constexpr hipError_t hipErrorNotReady = cudaErrorNotReady;
inline constexpr hipError_t hipErrorLaunchOutOfResources = cudaErrorLaunchOutOfResources;
inline constexpr hipError_t hipErrorLaunchFailure = cudaErrorLaunchFailure;
inline constexpr hipError_t hipErrorNotSupported = cudaErrorNotSupported;
inline constexpr hipError_t hipErrorIllegalAddress = cudaErrorIllegalAddress;

inline constexpr auto hipMemcpyHostToDevice = cudaMemcpyHostToDevice;
inline constexpr auto hipMemcpyDeviceToHost = cudaMemcpyDeviceToHost;
inline constexpr auto hipMemcpyDeviceToDevice = cudaMemcpyDeviceToDevice;
inline constexpr auto hipMemcpyDefault = cudaMemcpyDefault;
inline constexpr auto hipStreamCaptureStatusNone = cudaStreamCaptureStatusNone;
inline constexpr unsigned hipHostMallocPortable = cudaHostAllocPortable;
inline constexpr unsigned hipHostMallocMapped = cudaHostAllocMapped;
inline constexpr unsigned hipStreamNonBlocking = cudaStreamNonBlocking;
inline constexpr unsigned hipEventBlockingSync = cudaEventBlockingSync;
inline constexpr unsigned hipEventDisableTiming = cudaEventDisableTiming;
inline constexpr auto hipFuncAttributeMaxDynamicSharedMemorySize =
    cudaFuncAttributeMaxDynamicSharedMemorySize;

// CUDA's, and the name that HIP gives to an architecture.
struct hipDeviceProp_t : cudaDeviceProp {
  char gcnArchName[256];  // "sm_90"
};

#define ATTND_HIP_IS_CUDA(name)               \
  template <typename... Args>                 \
  inline hipError_t hip##name(Args... args) { \
    return cuda##name(args...);               \
  }
// The functions whose names differ in nothing but their prefix.
ATTND_HIP_IS_CUDA(SetDevice)
ATTND_HIP_IS_CUDA(GetDevice)
ATTND_HIP_IS_CUDA(GetDeviceCount)
ATTND_HIP_IS_CUDA(DeviceSynchronize)
ATTND_HIP_IS_CUDA(DeviceGetPCIBusId)
ATTND_HIP_IS_CUDA(MemGetInfo)
ATTND_HIP_IS_CUDA(Malloc)
ATTND_HIP_IS_CUDA(Free)
ATTND_HIP_IS_CUDA(Memcpy)
ATTND_HIP_IS_CUDA(MemcpyAsync)
ATTND_HIP_IS_CUDA(Memcpy2DAsync)
ATTND_HIP_IS_CUDA(Memset)
ATTND_HIP_IS_CUDA(MemsetAsync)
ATTND_HIP_IS_CUDA(StreamCreateWithFlags)
ATTND_HIP_IS_CUDA(StreamDestroy)
ATTND_HIP_IS_CUDA(StreamQuery)
ATTND_HIP_IS_CUDA(StreamSynchronize)
ATTND_HIP_IS_CUDA(StreamIsCapturing)
ATTND_HIP_IS_CUDA(StreamWaitEvent)
ATTND_HIP_IS_CUDA(EventCreateWithFlags)
ATTND_HIP_IS_CUDA(EventDestroy)
ATTND_HIP_IS_CUDA(EventRecord)
ATTND_HIP_IS_CUDA(EventQuery)
ATTND_HIP_IS_CUDA(EventSynchronize)
ATTND_HIP_IS_CUDA(EventElapsedTime)
ATTND_HIP_IS_CUDA(GetLastError)
ATTND_HIP_IS_CUDA(FuncSetAttribute)
#undef ATTND_HIP_IS_CUDA

// The rest.
inline const char* hipGetErrorName(hipError_t error) { return cudaGetErrorName(error); }
inline const char* hipGetErrorString(hipError_t error) { return cudaGetErrorString(error); }
inline hipError_t hipHostMalloc(void** data, size_t size, unsigned flags) {
  return cudaHostAlloc(data, size, flags);
}
inline hipError_t hipHostFree(void* data) { return cudaFreeHost(data); }
// Whether devices have programmatic dependent launch (sm_90). Asked of the first that launches:
// those in use are of one architecture (hip_platform.cc).
inline bool AttndOverlapsLaunches() {
  static const bool overlaps = [] {
    int device = 0, major = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) ==
               cudaSuccess &&
           major >= 9;
  }();
  return overlaps;
}
// With it, a kernel's blocks may start before the kernel in front of it in the stream has ended,
// and wait for it in WaitForLaunchesBefore.
inline hipError_t hipLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** args,
                                  size_t lds_bytes, hipStream_t stream) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = lds_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = AttndOverlapsLaunches() ? 1 : 0;
  return cudaLaunchKernelExC(&config, kernel, args);
}
inline hipError_t hipGetDeviceProperties(hipDeviceProp_t* properties, int device) {
  const hipError_t error = cudaGetDeviceProperties(properties, device);
  std::snprintf(properties->gcnArchName, sizeof(properties->gcnArchName), "sm_%d%d",
                properties->major, properties->minor);
  return error;
}
// NOLINTEND(readability-identifier-naming)
