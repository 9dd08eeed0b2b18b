// SPDX-License-Identifier: Apache-2.0
//
// The part of the HIP API that only tells: what devices say of themselves, and the texts of errors.
#include <cstdio>

#include "kernels/hip/simt_host/hip/hip_runtime.h"
#include "kernels/hip/simt_host/machine_state.h"

using attnd::MutexLock;
using attnd::simt::Core;
using attnd::simt::Machine;

namespace {

struct CoreInfo {
  Core core;
  const char* name;
  const char* arch;
  int major, minor;
  int processors;  // as HIP counts them: pairs of compute units on RDNA
  int wave_size;
  size_t lds_bytes;
  size_t lds_optin_bytes;
  int l2_bytes;
};

constexpr size_t kKiB = 1024;
constexpr CoreInfo kCores[] = {
    {Core::kGfx1100, "AMD Radeon RX 7900 XTX", "gfx1100", 11, 0, 48, 32, 64 * kKiB, 64 * kKiB,
     6 << 20},
    {Core::kGfx1201, "AMD Radeon RX 9070 XT", "gfx1201", 12, 0, 32, 32, 64 * kKiB, 64 * kKiB,
     8 << 20},
    {Core::kGfx942, "AMD Instinct MI300X", "gfx942:sramecc+:xnack-", 9, 4, 304, 64, 64 * kKiB,
     64 * kKiB, 4 << 20},
    {Core::kGfx950, "AMD Instinct MI355X", "gfx950:sramecc+:xnack-", 9, 5, 256, 64, 160 * kKiB,
     160 * kKiB, 4 << 20},
    {Core::kSm90, "NVIDIA H100", "sm_90", 9, 0, 132, 32, 48 * kKiB, 227 * kKiB, 50 << 20},
};

const CoreInfo& InfoOf(Core core) {
  for (const CoreInfo& info : kCores) {
    if (info.core == core) return info;
  }
  return kCores[0];
}

struct ErrorText {
  hipError_t error;
  const char* name;
  const char* text;
};

constexpr ErrorText kErrors[] = {
    {hipSuccess, "hipSuccess", "no error"},
    {hipErrorInvalidValue, "hipErrorInvalidValue", "invalid argument"},
    {hipErrorOutOfMemory, "hipErrorOutOfMemory", "out of memory"},
    {hipErrorNotInitialized, "hipErrorNotInitialized", "initialization error"},
    {hipErrorDeinitialized, "hipErrorDeinitialized", "driver shutting down"},
    {hipErrorInvalidConfiguration, "hipErrorInvalidConfiguration",
     "invalid configuration argument"},
    {hipErrorInsufficientDriver, "hipErrorInsufficientDriver", "driver version is insufficient"},
    {hipErrorInvalidDeviceFunction, "hipErrorInvalidDeviceFunction", "invalid device function"},
    {hipErrorNoDevice, "hipErrorNoDevice", "no ROCm-capable device is detected"},
    {hipErrorInvalidDevice, "hipErrorInvalidDevice", "invalid device ordinal"},
    {hipErrorInvalidHandle, "hipErrorInvalidHandle", "invalid resource handle"},
    {hipErrorNotReady, "hipErrorNotReady", "device not ready"},
    {hipErrorIllegalAddress, "hipErrorIllegalAddress", "an illegal memory access was encountered"},
    {hipErrorLaunchOutOfResources, "hipErrorLaunchOutOfResources",
     "too many resources requested for launch"},
    {hipErrorLaunchTimeOut, "hipErrorLaunchTimeOut", "the launch timed out and was terminated"},
    {hipErrorAssert, "hipErrorAssert", "device-side assert triggered"},
    {hipErrorLaunchFailure, "hipErrorLaunchFailure", "unspecified launch failure"},
    {hipErrorNotSupported, "hipErrorNotSupported", "operation not supported"},
    {hipErrorUnknown, "hipErrorUnknown", "unknown error"},
};

const ErrorText& TextOf(hipError_t error) {
  for (const ErrorText& text : kErrors) {
    if (text.error == error) return text;
  }
  return kErrors[std::size(kErrors) - 1];
}

}  // namespace

const char* hipGetErrorName(hipError_t error) { return TextOf(error).name; }
const char* hipGetErrorString(hipError_t error) { return TextOf(error).text; }

hipError_t hipGetDeviceProperties(hipDeviceProp_t* properties, int device) {
  Machine& machine = Machine::Get();
  MutexLock lock(machine.mu());
  if (machine.num_devices() == 0) return hipErrorNoDevice;
  if (device < 0 || device >= machine.num_devices()) return hipErrorInvalidDevice;
  const CoreInfo& info = InfoOf(machine.options().core);
  hipDeviceProp_t& p = *properties = hipDeviceProp_t{};
  std::snprintf(p.name, sizeof(p.name), "%s (simulated)", info.name);
  std::snprintf(p.gcnArchName, sizeof(p.gcnArchName), "%s", info.arch);
  p.totalGlobalMem = machine.options().memory_bytes;
  p.sharedMemPerBlock = info.lds_bytes;
  p.sharedMemPerBlockOptin = info.lds_optin_bytes;
  p.sharedMemPerMultiprocessor = info.lds_optin_bytes;
  p.major = info.major;
  p.minor = info.minor;
  p.multiProcessorCount = info.processors;
  p.warpSize = info.wave_size;
  p.maxThreadsPerBlock = 1024;
  p.regsPerBlock = 65536;
  p.l2CacheSize = info.l2_bytes;
  p.clockRate = 2'000'000;
  p.memoryClockRate = 1'000'000;
  p.memoryBusWidth = 384;
  p.pciBusID = device + 1;
  p.canMapHostMemory = 1;
  return hipSuccess;
}

hipError_t hipDeviceGetAttribute(int* value, hipDeviceAttribute_t attribute, int device) {
  hipDeviceProp_t properties;
  if (const hipError_t error = hipGetDeviceProperties(&properties, device)) return error;
  switch (attribute) {
    case hipDeviceAttributeMaxSharedMemoryPerBlock:
      *value = static_cast<int>(properties.sharedMemPerBlock);
      return hipSuccess;
    case hipDeviceAttributeMultiprocessorCount:
      *value = properties.multiProcessorCount;
      return hipSuccess;
    case hipDeviceAttributeWarpSize:
      *value = properties.warpSize;
      return hipSuccess;
  }
  return hipErrorInvalidValue;
}

hipError_t hipDeviceGetPCIBusId(char* text, int length, int device) {
  hipDeviceProp_t properties;
  if (const hipError_t error = hipGetDeviceProperties(&properties, device)) return error;
  const int written = std::snprintf(text, static_cast<size_t>(length), "%04x:%02x:%02x.0",
                                    static_cast<unsigned>(properties.pciDomainID),
                                    static_cast<unsigned>(properties.pciBusID),
                                    static_cast<unsigned>(properties.pciDeviceID));
  return written < length ? hipSuccess : hipErrorInvalidValue;
}

// Of the ROCm release whose API this is.
hipError_t hipRuntimeGetVersion(int* version) {
  *version = 60443480;
  return hipSuccess;
}
hipError_t hipDriverGetVersion(int* version) { return hipRuntimeGetVersion(version); }
