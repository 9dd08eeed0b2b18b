// SPDX-License-Identifier: Apache-2.0
#include "kernels/hip/hip_device.h"

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace attnd {
namespace {

constexpr uint64_t kAlignment = uint64_t{2} << 20;

std::string NameOf(int ordinal) { return absl::StrCat("hip:", ordinal); }

// ROCm adds features to the name, as in "gfx90a:sramecc+:xnack-".
std::string ArchOf(const hipDeviceProp_t& properties) {
  const std::string name = properties.gcnArchName;
  return name.substr(0, name.find(':'));
}

// As sysfs writes it; empty where the runtime does not tell.
std::string PciAddressOf(int ordinal) {
  char address[32] = {};
  if (hipDeviceGetPCIBusId(address, sizeof(address), ordinal) != hipSuccess) {
    (void)hipGetLastError();
    return "";
  }
  return absl::AsciiStrToLower(address);
}

}  // namespace

absl::StatusOr<int> NumHipDevices() {
  int count = 0;
  const hipError_t error = hipGetDeviceCount(&count);
  if (error == hipSuccess && count > 0) return count;
  return HipStatus(error == hipSuccess ? hipErrorNoDevice : error, "hip", "hipGetDeviceCount");
}

absl::StatusOr<std::unique_ptr<HipDevice>> HipDevice::Open(int ordinal) {
  // Only what the device does itself can fence it, so it does not exist before it has answered.
  const std::string name = NameOf(ordinal);
  hipDeviceProp_t properties{};
  ATTND_RETURN_IF_ERROR(HipStatus(hipSetDevice(ordinal), name, "hipSetDevice"));
  ATTND_RETURN_IF_ERROR(
      HipStatus(hipGetDeviceProperties(&properties, ordinal), name, "hipGetDeviceProperties"));
  size_t free_bytes = 0, total_bytes = 0;
  ATTND_RETURN_IF_ERROR(HipStatus(hipMemGetInfo(&free_bytes, &total_bytes), name, "hipMemGetInfo"));
  DeviceInfo info;
  info.arch = ArchOf(properties);
  info.name = absl::StrCat(name, ": ", properties.name, ", ", info.arch);
  info.total_memory = Bytes(total_bytes);
  info.free_memory = Bytes(free_bytes);
  info.compute_units = properties.multiProcessorCount;
  info.wave_size = properties.warpSize;
  info.pci_address = PciAddressOf(ordinal);
  return std::unique_ptr<HipDevice>(new HipDevice(ordinal, std::move(info)));
}

HipDevice::HipDevice(int ordinal, DeviceInfo info)
    : ordinal_(ordinal), info_(std::move(info)), fence_(info_.name), events_(fence_) {}

absl::Status HipDevice::Use() {
  ATTND_RETURN_IF_HIP_ERROR(fence_, hipSetDevice(ordinal_));
  return absl::OkStatus();
}

absl::StatusOr<Buffer> HipDevice::Allocate(Bytes size) {
  if (size == Bytes(0)) return absl::InvalidArgumentError("a buffer of 0 bytes");
  ATTND_RETURN_IF_ERROR(Use());
  size_t free_bytes = 0, total_bytes = 0;
  ATTND_RETURN_IF_HIP_ERROR(fence_, hipMemGetInfo(&free_bytes, &total_bytes));

  // Large allocations are aligned though HIP does not promise it: only where one is not, ask for
  // more than is needed.
  void* data = nullptr;
  uint64_t lead = 0;
  hipError_t error = hipMalloc(&data, size.value());
  if (error == hipSuccess && reinterpret_cast<uintptr_t>(data) % kAlignment != 0) {
    ATTND_RETURN_IF_HIP_ERROR(fence_, hipFree(data));
    error = hipMalloc(&data, size.value() + kAlignment);
    lead = (kAlignment - reinterpret_cast<uintptr_t>(data) % kAlignment) % kAlignment;
  }
  if (error == hipErrorOutOfMemory) {
    (void)hipGetLastError();
    return absl::ResourceExhaustedError(absl::StrCat("device memory of ", info_.name, ": ",
                                                     size.value(), " bytes asked, ", free_bytes,
                                                     " of ", total_bytes, " free"));
  }
  ATTND_RETURN_IF_ERROR(fence_.Check(error, "hipMalloc"));

  Buffer buffer(
      static_cast<std::byte*>(data) + lead, size,
      // Of a device that is lost HIP takes nothing back; the process is to end anyway.
      [](void* allocated, std::byte*, Bytes) { (void)hipFree(allocated); }, data);
  ATTND_RETURN_IF_HIP_ERROR(fence_, hipMemset(buffer.data(), 0, size.value()));
  ATTND_RETURN_IF_HIP_ERROR(fence_, hipDeviceSynchronize());
  return buffer;
}

absl::StatusOr<Buffer> HipDevice::AllocateHost(Bytes size) {
  if (size == Bytes(0)) return absl::InvalidArgumentError("a buffer of 0 bytes");
  ATTND_RETURN_IF_ERROR(Use());
  void* data = nullptr;
  const hipError_t error =
      hipHostMalloc(&data, size.value(), hipHostMallocPortable | hipHostMallocMapped);
  if (error == hipErrorOutOfMemory) {
    (void)hipGetLastError();
    return absl::ResourceExhaustedError(absl::StrCat("pinned host memory for ", info_.name,
                                                     ": the system does not give ", size.value(),
                                                     " bytes"));
  }
  ATTND_RETURN_IF_ERROR(fence_.Check(error, "hipHostMalloc"));
  return Buffer(
      static_cast<std::byte*>(data), size,
      [](void*, std::byte* freed, Bytes) { (void)hipHostFree(freed); }, nullptr);
}

std::optional<Bytes> HipDevice::UsedMemory() {
  size_t free_bytes = 0, total_bytes = 0;
  if (!fence_.status().ok() || !Use().ok() ||
      hipMemGetInfo(&free_bytes, &total_bytes) != hipSuccess) {
    return std::nullopt;
  }
  return Bytes(total_bytes - free_bytes);
}

absl::StatusOr<std::unique_ptr<Stream>> HipDevice::NewStream() {
  ATTND_RETURN_IF_ERROR(Use());
  ATTND_RETURN_IF_ERROR(events_.Reserve());
  hipStream_t handle = nullptr;
  // Apart from the default stream, which no work is given to.
  ATTND_RETURN_IF_HIP_ERROR(fence_, hipStreamCreateWithFlags(&handle, hipStreamNonBlocking));
  return std::make_unique<HipStream>(handle, ordinal_, fence_, events_);
}

}  // namespace attnd
