// SPDX-License-Identifier: Apache-2.0
//
// The HIP API of simt_host: lateness, faults and the strictness that host code is tested with.
#include <hip/hip_runtime.h>

#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/hip/simt_host/device.h"
#include "kernels/hip/simt_host/machine.h"

namespace attnd::simt {
namespace {

class SimtMachineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    simt::SetUp({});
    EXPECT_EQ(hipSetDevice(0), hipSuccess);
    static_cast<void>(hipGetLastError());
  }
  void TearDown() override {
    EXPECT_EQ(AllocatedBytes(0), 0u);
    EXPECT_EQ(AllocatedHostBytes(), 0u);
    simt::SetUp({});
  }
};

template <class T>
T* Malloc(size_t count) {
  T* data = nullptr;
  EXPECT_EQ(hipMalloc(&data, count * sizeof(T)), hipSuccess);
  return data;
}

hipStream_t NewStream() {
  hipStream_t stream = nullptr;
  EXPECT_EQ(hipStreamCreateWithFlags(&stream, hipStreamNonBlocking), hipSuccess);
  return stream;
}

hipEvent_t NewEvent() {
  hipEvent_t event = nullptr;
  EXPECT_EQ(hipEventCreateWithFlags(&event, hipEventDisableTiming), hipSuccess);
  return event;
}

struct AddArgs {
  float* out;
  float value;
};
void Add(const AddArgs args) {
  if (threadIdx.x == 0) *args.out += args.value;
}

hipError_t LaunchAdd(float* out, float value, hipStream_t stream = nullptr) {
  return gpu::LaunchKernel(&Add, 1, 32, 0, stream, {out, value});
}

TEST_F(SimtMachineTest, CoresTellWhatTheyAre) {
  struct Row {
    Core core;
    const char* arch;
    int wave_size;
    size_t lds, lds_optin;
  };
  for (const Row& row : {Row{Core::kGfx1100, "gfx1100", 32, 65536, 65536},
                         Row{Core::kGfx1201, "gfx1201", 32, 65536, 65536},
                         Row{Core::kGfx942, "gfx942:sramecc+:xnack-", 64, 65536, 65536},
                         Row{Core::kGfx950, "gfx950:sramecc+:xnack-", 64, 163840, 163840},
                         Row{Core::kSm90, "sm_90", 32, 49152, 232448}}) {
    simt::SetUp({.core = row.core, .num_devices = 2});
    hipDeviceProp_t properties;
    ASSERT_EQ(hipGetDeviceProperties(&properties, 1), hipSuccess);
    EXPECT_STREQ(properties.gcnArchName, row.arch);
    EXPECT_EQ(properties.warpSize, row.wave_size);
    EXPECT_EQ(properties.sharedMemPerBlock, row.lds);
    EXPECT_EQ(properties.sharedMemPerBlockOptin, row.lds_optin);
  }
  EXPECT_EQ(hipSetDevice(2), hipErrorInvalidDevice);
  EXPECT_EQ(hipGetLastError(), hipErrorInvalidDevice);
  EXPECT_EQ(hipGetLastError(), hipSuccess);
}

TEST_F(SimtMachineTest, WithoutDevicesThereIsNothing) {
  simt::SetUp({.num_devices = 0});
  int count = -1;
  EXPECT_EQ(hipGetDeviceCount(&count), hipErrorNoDevice);
  EXPECT_EQ(count, 0);
  void* data = nullptr;
  EXPECT_EQ(hipMalloc(&data, 16), hipErrorNoDevice);
  EXPECT_STREQ(hipGetErrorName(hipErrorNoDevice), "hipErrorNoDevice");
}

TEST_F(SimtMachineTest, MemoryIsCountedByDeviceAndPoisoned) {
  simt::SetUp({.num_devices = 2, .memory_bytes = 1 << 20});
  auto* data = Malloc<float>(1000);
  EXPECT_TRUE(std::isnan(data[0]) && std::isnan(data[999]));
  EXPECT_EQ(AllocatedBytes(0), 4000u);
  EXPECT_EQ(AllocatedBytes(1), 0u);
  size_t free_bytes = 0, total_bytes = 0;
  EXPECT_EQ(hipMemGetInfo(&free_bytes, &total_bytes), hipSuccess);
  EXPECT_EQ(free_bytes, (1u << 20) - 4000);
  EXPECT_EQ(total_bytes, 1u << 20);
  void* more = nullptr;
  EXPECT_EQ(hipMalloc(&more, 1 << 20), hipErrorOutOfMemory);
  SetFaults(0, {.bytes_used_by_others = (1 << 20) - 8000});
  EXPECT_EQ(hipMemGetInfo(&free_bytes, &total_bytes), hipSuccess);
  EXPECT_EQ(free_bytes, 4000u);
  EXPECT_EQ(hipMalloc(&more, 4001), hipErrorOutOfMemory);
  EXPECT_EQ(hipFree(data), hipSuccess);
  EXPECT_EQ(hipFree(data), hipErrorInvalidValue);
  EXPECT_EQ(hipFree(nullptr), hipSuccess);
}

TEST_F(SimtMachineTest, NthAllocationFails) {
  SetFaults(0, {.failing_allocation = 2, .failing_host_allocation = 1});
  auto* first = Malloc<float>(4);
  void* second = nullptr;
  EXPECT_EQ(hipMalloc(&second, 16), hipErrorOutOfMemory);
  EXPECT_EQ(hipHostMalloc(&second, 16), hipErrorOutOfMemory);
  EXPECT_EQ(hipHostMalloc(&second, 16), hipSuccess);
  EXPECT_EQ(AllocatedHostBytes(), 16u);
  EXPECT_EQ(hipFree(second), hipErrorInvalidValue);  // pinned memory is not device memory
  EXPECT_EQ(hipHostFree(second), hipSuccess);
  EXPECT_EQ(hipFree(first), hipSuccess);
}

TEST_F(SimtMachineTest, CopiesChecksTheirSides) {
  std::array<float, 4> host{1, 2, 3, 4}, back{};
  auto* device = Malloc<float>(4);
  EXPECT_EQ(hipMemcpy(device, host.data(), 16, hipMemcpyHostToDevice), hipSuccess);
  EXPECT_EQ(hipMemset(device, 0, 4), hipSuccess);
  EXPECT_EQ(hipMemcpy(back.data(), device, 16, hipMemcpyDeviceToHost), hipSuccess);
  EXPECT_EQ(back, (std::array<float, 4>{0, 2, 3, 4}));
  EXPECT_EQ(hipMemcpy(back.data(), device, 16, hipMemcpyHostToDevice), hipErrorInvalidValue);
  EXPECT_EQ(hipMemcpy(back.data(), device + 1, 16, hipMemcpyDeviceToHost), hipErrorInvalidValue);
  // Column 1 of the device's 2x2 matrix into column 0 of the host's.
  EXPECT_EQ(hipMemcpy2DAsync(back.data(), 8, device + 1, 8, 4, 2, hipMemcpyDeviceToHost),
            hipSuccess);
  EXPECT_EQ(back, (std::array<float, 4>{2, 2, 4, 4}));
  EXPECT_EQ(hipFree(device), hipSuccess);
}

TEST_F(SimtMachineTest, LazyWorkRunsWhenSomebodyWaits) {
  simt::SetUp({.timing = Timing::kLazy, .queries_before_done = 2});
  auto* x = Malloc<float>(1);
  *x = 0;
  hipStream_t stream = NewStream();
  hipEvent_t event = NewEvent();
  EXPECT_EQ(hipEventQuery(event), hipSuccess);  // never recorded
  EXPECT_EQ(LaunchAdd(x, 1, stream), hipSuccess);
  EXPECT_EQ(hipEventRecord(event, stream), hipSuccess);
  EXPECT_EQ(LaunchAdd(x, 2, stream), hipSuccess);
  EXPECT_EQ(*x, 0);
  EXPECT_EQ(hipEventQuery(event), hipErrorNotReady);
  EXPECT_EQ(hipEventQuery(event), hipErrorNotReady);
  EXPECT_EQ(*x, 0);
  EXPECT_EQ(hipEventQuery(event), hipSuccess);
  EXPECT_EQ(*x, 1);  // not what came after the event
  EXPECT_EQ(hipStreamQuery(stream), hipErrorNotReady);
  EXPECT_EQ(hipStreamQuery(stream), hipSuccess);
  EXPECT_EQ(*x, 3);
  EXPECT_EQ(LaunchAdd(x, 4, stream), hipSuccess);
  RunPending(stream);
  EXPECT_EQ(*x, 7);
  EXPECT_EQ(LaunchAdd(x, 8, stream), hipSuccess);
  EXPECT_EQ(hipStreamSynchronize(stream), hipSuccess);
  EXPECT_EQ(*x, 15);
  EXPECT_EQ(LaunchAdd(x, 16, stream), hipSuccess);
  EXPECT_EQ(hipFree(x), hipSuccess);  // runs it first, as HIP does
  EXPECT_EQ(LaunchCount(0), 5);
  EXPECT_EQ(hipEventDestroy(event), hipSuccess);
  EXPECT_EQ(hipStreamDestroy(stream), hipSuccess);
  EXPECT_EQ(hipStreamSynchronize(stream), hipErrorInvalidHandle);
}

// Without the wait the second stream would read before the first one writes.
TEST_F(SimtMachineTest, LazyStreamsAreOrderedByWaitsAlone) {
  simt::SetUp({.timing = Timing::kLazy});
  for (const bool waits : {true, false}) {
    std::array<float, 2> host{1, 0};
    auto* x = Malloc<float>(1);
    *x = 0;
    hipStream_t writer = NewStream(), reader = NewStream();
    hipEvent_t written = NewEvent();
    EXPECT_EQ(hipMemcpyAsync(x, host.data(), 4, hipMemcpyHostToDevice, writer), hipSuccess);
    EXPECT_EQ(hipEventRecord(written, writer), hipSuccess);
    if (waits) {
      EXPECT_EQ(hipStreamWaitEvent(reader, written), hipSuccess);
    }
    EXPECT_EQ(hipMemcpyAsync(&host[1], x, 4, hipMemcpyDeviceToHost, reader), hipSuccess);
    EXPECT_EQ(hipStreamSynchronize(reader), hipSuccess);
    EXPECT_EQ(host[1], waits ? 1.0f : 0.0f);
    EXPECT_EQ(hipDeviceSynchronize(), hipSuccess);
    EXPECT_EQ(*x, 1.0f);
    EXPECT_EQ(hipFree(x), hipSuccess);
  }
}

TEST_F(SimtMachineTest, FailingLaunchBreaksItsDeviceOnly) {
  simt::SetUp({.num_devices = 2, .timing = Timing::kLazy});
  SetFaults(1, {.failing_launch = 2, .sticky = hipErrorIllegalAddress});
  auto* good = Malloc<float>(1);
  EXPECT_EQ(hipSetDevice(1), hipSuccess);
  auto* bad = Malloc<float>(1);
  *good = *bad = 0;
  hipStream_t stream = NewStream();
  hipEvent_t event = NewEvent();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(LaunchAdd(bad, 1, stream), hipSuccess);
  EXPECT_EQ(hipEventRecord(event, stream), hipSuccess);
  EXPECT_EQ(hipEventSynchronize(event), hipErrorIllegalAddress);
  EXPECT_EQ(*bad, 1);  // the second and what came after it did nothing
  EXPECT_EQ(hipEventQuery(event), hipErrorIllegalAddress);
  EXPECT_EQ(LaunchAdd(bad, 1, stream), hipErrorIllegalAddress);
  EXPECT_EQ(hipStreamSynchronize(stream), hipErrorIllegalAddress);
  void* data = nullptr;
  EXPECT_EQ(hipMalloc(&data, 16), hipErrorIllegalAddress);
  EXPECT_EQ(hipFree(bad), hipErrorIllegalAddress);
  EXPECT_EQ(AllocatedBytes(1), 0u);

  EXPECT_EQ(hipSetDevice(0), hipSuccess);
  EXPECT_EQ(LaunchAdd(good, 1), hipSuccess);
  EXPECT_EQ(hipDeviceSynchronize(), hipSuccess);
  EXPECT_EQ(*good, 1);
  EXPECT_EQ(hipFree(good), hipSuccess);
  EXPECT_EQ(LastReport(), "");
}

TEST_F(SimtMachineTest, FailingCopyBreaksTheDevice) {
  SetFaults(0, {.failing_copy = 1, .sticky = hipErrorLaunchFailure});
  auto* x = Malloc<float>(1);
  EXPECT_EQ(hipMemsetAsync(x, 0, 4), hipSuccess);
  EXPECT_EQ(hipDeviceSynchronize(), hipErrorLaunchFailure);
  EXPECT_EQ(hipFree(x), hipErrorLaunchFailure);
}

TEST_F(SimtMachineTest, StreamsBelongToTheirDevice) {
  simt::SetUp({.num_devices = 2});
  auto* x = Malloc<float>(1);
  hipStream_t stream = NewStream();
  EXPECT_EQ(hipSetDevice(1), hipSuccess);
  hipEvent_t event = NewEvent();
  EXPECT_EQ(LaunchAdd(x, 1, stream), hipErrorInvalidHandle);
  EXPECT_EQ(hipEventRecord(event, stream), hipErrorInvalidHandle);
  int device = -1;
  std::thread([&] { EXPECT_EQ(hipGetDevice(&device), hipSuccess); }).join();
  EXPECT_EQ(device, 0);  // the current device is a thread's own
  EXPECT_EQ(hipSetDevice(0), hipSuccess);
  EXPECT_EQ(hipFree(x), hipSuccess);
}

TEST_F(SimtMachineTest, LaunchesAreChecked) {
  auto* x = Malloc<float>(1);
  const auto launch = [&](unsigned grid, unsigned block, size_t lds_bytes) {
    return gpu::LaunchKernel(&Add, grid, block, lds_bytes, nullptr, {x, 1});
  };
  simt::SetUp({.core = Core::kSm90});
  EXPECT_EQ(launch(0, 32, 0), hipErrorInvalidConfiguration);
  EXPECT_EQ(launch(1, 48, 0), hipErrorInvalidConfiguration);
  EXPECT_EQ(launch(1, 1056, 0), hipErrorInvalidConfiguration);
  EXPECT_EQ(launch(1, 32, 48 << 10), hipSuccess);
  EXPECT_EQ(launch(1, 32, 64 << 10), hipErrorInvalidValue);
  const auto* kernel = reinterpret_cast<const void*>(&Add);
  EXPECT_EQ(hipFuncSetAttribute(kernel, hipFuncAttributeMaxDynamicSharedMemorySize, 64 << 10),
            hipSuccess);
  EXPECT_EQ(launch(1, 32, 64 << 10), hipSuccess);
  EXPECT_EQ(launch(1, 32, 65 << 10), hipErrorInvalidValue);
  EXPECT_EQ(hipFuncSetAttribute(kernel, hipFuncAttributeMaxDynamicSharedMemorySize, 256 << 10),
            hipErrorInvalidValue);
  simt::SetUp({.core = Core::kGfx942});
  EXPECT_EQ(launch(1, 32, 0), hipErrorInvalidConfiguration);  // half a wave
  EXPECT_EQ(hipFree(x), hipSuccess);
}

TEST_F(SimtMachineTest, EventsTellTime) {
  hipEvent_t start = nullptr, stop = nullptr;
  EXPECT_EQ(hipEventCreate(&start), hipSuccess);
  EXPECT_EQ(hipEventCreate(&stop), hipSuccess);
  float milliseconds = -1;
  EXPECT_EQ(hipEventElapsedTime(&milliseconds, start, stop), hipErrorInvalidHandle);
  EXPECT_EQ(hipEventRecord(start), hipSuccess);
  EXPECT_EQ(hipEventRecord(stop), hipSuccess);
  EXPECT_EQ(hipEventElapsedTime(&milliseconds, start, stop), hipSuccess);
  EXPECT_GE(milliseconds, 0);
}

}  // namespace
}  // namespace attnd::simt
