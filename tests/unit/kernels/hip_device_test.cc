// SPDX-License-Identifier: Apache-2.0
//
// The HIP device layer on simt_host, whose HIP runs work as late as HIP may and fails on demand.
#include "kernels/hip/hip_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/backend/host_memory.h"
#include "kernels/hip/hip_platform.h"
#include "kernels/hip/launch.h"
#include "kernels/hip/simt_host/machine.h"

namespace attnd {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1u << 20;

struct AddArgs {
  int* value = nullptr;
  int by = 0;
};
void Add(const AddArgs args) { *args.value += args.by; }

std::unique_ptr<HipDevice> Open(int ordinal = 0) {
  absl::StatusOr<std::unique_ptr<HipDevice>> device = HipDevice::Open(ordinal);
  EXPECT_TRUE(device.ok()) << device.status();
  return *std::move(device);
}

hipStream_t Handle(Stream& stream) { return static_cast<HipStream&>(stream).handle(); }

TEST(HipStatusTest, NamesDeviceCallAndReason) {
  EXPECT_TRUE(HipStatus(hipSuccess, "hip:0", "hipMalloc").ok());
  const absl::Status status =
      HipStatus(hipErrorIllegalAddress, "hip:0: x", "hipEventQuery(event_)");
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("hip:0: x: hipEventQuery: "),
                                      HasSubstr(hipGetErrorName(hipErrorIllegalAddress)),
                                      HasSubstr(hipGetErrorString(hipErrorIllegalAddress))));
  EXPECT_EQ(HipStatus(hipErrorOutOfMemory, "", "").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(HipStatus(hipErrorNoDevice, "", "").code(), absl::StatusCode::kNotFound);
}

TEST(HipStatusTest, OnlyRefusalsLeaveTheDeviceUsable) {
  for (hipError_t error : {hipSuccess, hipErrorNotReady, hipErrorOutOfMemory, hipErrorInvalidValue,
                           hipErrorNoDevice, hipErrorInvalidConfiguration}) {
    EXPECT_FALSE(IsSticky(error)) << hipGetErrorName(error);
  }
  // Also those of which nothing is known.
  for (hipError_t error : {hipErrorIllegalAddress, hipErrorLaunchFailure, hipErrorUnknown,
                           hipErrorAssert, hipErrorLaunchTimeOut}) {
    EXPECT_TRUE(IsSticky(error)) << hipGetErrorName(error);
  }
}

TEST(HipStatusTest, TheFirstStickyErrorIsTheAnswerToEverythingAfterIt) {
  HipFence fence("hip:0");
  EXPECT_EQ(fence.Check(hipErrorInvalidValue, "hipFree(p)").code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(fence.status().ok());
  const absl::Status first = fence.Check(hipErrorLaunchFailure, "hipEventRecord(e, s)");
  EXPECT_THAT(first.message(), HasSubstr("hipEventRecord"));
  EXPECT_EQ(fence.status(), first);
  EXPECT_EQ(fence.Check(hipSuccess, "hipFree(p)"), first);
  EXPECT_EQ(fence.Check(hipErrorOutOfMemory, "hipMalloc(p)"), first);
  EXPECT_EQ(fence.Check(hipErrorIllegalAddress, "hipFree(p)"), first);
  int calls = 0;
  const auto guarded = [&]() -> absl::Status {
    ATTND_RETURN_IF_HIP_ERROR(fence, (++calls, hipSuccess));
    return absl::OkStatus();
  };
  EXPECT_EQ(guarded(), first);
  EXPECT_EQ(calls, 0);
}

TEST(HipDeviceTest, SaysWhatItIs) {
  simt::SetUp({.core = simt::Core::kGfx942, .num_devices = 2, .memory_bytes = 64 * kMiB});
  EXPECT_EQ(*NumHipDevices(), 2);
  const DeviceInfo info = Open(1)->info();
  EXPECT_THAT(info.name, AllOf(HasSubstr("hip:1: "), HasSubstr(", gfx942")));
  EXPECT_EQ(info.arch, "gfx942");  // without features
  EXPECT_EQ(info.wave_size, 64);
  EXPECT_GT(info.compute_units, 0);
  EXPECT_EQ(info.total_memory, Bytes(64 * kMiB));
  EXPECT_EQ(info.free_memory, Bytes(64 * kMiB));
  EXPECT_FALSE(info.host_memory);
}

TEST(HipDeviceTest, WithoutADeviceSaysSo) {
  simt::SetUp({.num_devices = 0});
  EXPECT_EQ(NumHipDevices().status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(HipDevice::Open(0).ok());
}

TEST(HipDeviceTest, MemoryIsZeroedAlignedAndGivenBack) {
  simt::SetUp({});
  std::unique_ptr<HipDevice> device = Open();
  {
    const Buffer buffer = *device->Allocate(Bytes(3 * kMiB));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % (2 * kMiB), 0u);
    EXPECT_EQ(buffer.size(), Bytes(3 * kMiB));
    for (uint64_t i = 0; i < 3 * kMiB; ++i) ASSERT_EQ(buffer.data()[i], std::byte(0)) << i;
    EXPECT_GE(simt::AllocatedBytes(0), 3 * kMiB);
  }
  EXPECT_EQ(simt::AllocatedBytes(0), 0u);
  EXPECT_EQ(device->Allocate(Bytes(0)).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(HipDeviceTest, OutOfMemorySaysHowMuchWasAskedAndIsFree) {
  simt::SetUp({.memory_bytes = 64 * kMiB});
  simt::SetFaults(0, {.bytes_used_by_others = 40 * kMiB});
  std::unique_ptr<HipDevice> device = Open();
  const absl::Status status = device->Allocate(Bytes(32 * kMiB)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr("33554432 bytes asked"), HasSubstr("25165824 of 67108864 free"),
                    HasSubstr(device->info().name)));
  // A refusal, no fault.
  EXPECT_TRUE(device->Allocate(Bytes(8 * kMiB)).ok());
}

TEST(HipDeviceTest, PinnedMemoryIsAlignedAndMayOutliveItsDevice) {
  simt::SetUp({});
  std::unique_ptr<HipDevice> device = Open();
  Buffer pinned = *device->AllocateHost(Bytes(100));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(pinned.data()) % kHostMemoryAlignment, 0u);
  EXPECT_GE(simt::AllocatedHostBytes(), 100u);
  device.reset();
  std::memset(pinned.data(), 1, 100);
  pinned = Buffer();
  EXPECT_EQ(simt::AllocatedHostBytes(), 0u);

  device = Open();
  simt::SetFaults(0, {.failing_host_allocation = 1});
  EXPECT_EQ(device->AllocateHost(Bytes(100)).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(device->AllocateHost(Bytes(100)).ok());
}

TEST(HipStreamTest, CopiesPagesInOrderAndNothingBeside) {
  simt::SetUp({.timing = simt::Timing::kLazy});
  std::unique_ptr<HipDevice> device = Open();
  std::unique_ptr<Stream> stream = *device->NewStream();
  // Three layers of four pages of 64 bytes, page p of layer l filled with 4 l + p + 1.
  const Buffer pool = *device->Allocate(Bytes(2 * kMiB));
  constexpr uint64_t kRow = 64, kStride = 4 * kRow;
  for (int i = 0; i < 12; ++i) std::memset(pool.data() + i * kRow, i + 1, kRow);
  const auto copy = [&](int from, int to) {
    return PageCopy{.destination = pool.data() + to * kRow,
                    .source = pool.data() + from * kRow,
                    .row_bytes = kRow,
                    .layer_stride_bytes = kStride,
                    .num_layers = 3};
  };
  ASSERT_TRUE(stream->CopyPages(std::vector{copy(0, 1), copy(1, 3)}).ok());
  ASSERT_TRUE((*stream->Record())->Wait().ok());
  for (int layer = 0; layer < 3; ++layer) {
    std::vector<int> pages;
    for (uint64_t page = 0; page < 4; ++page) {
      const std::byte* const row =
          pool.data() + static_cast<uint64_t>(layer) * kStride + page * kRow;
      pages.push_back(static_cast<int>(row[0]));
      EXPECT_EQ(row[kRow - 1], row[0]);
    }
    const int first = 4 * layer + 1;
    EXPECT_THAT(pages, ElementsAre(first, first, first + 2, first));
  }
}

TEST(HipStreamTest, AnEventPassesWhenWhatPrecedesItHasRun) {
  simt::SetUp({.timing = simt::Timing::kLazy, .queries_before_done = 1000});
  std::unique_ptr<HipDevice> device = Open();
  std::unique_ptr<Stream> stream = *device->NewStream();
  const Buffer memory = *device->AllocateHost(Bytes(sizeof(int)));
  auto* const value = reinterpret_cast<int*>(memory.data());
  *value = 0;
  // Each event is a recycled one: none is done because it was before.
  for (int round = 1; round <= 50; ++round) {
    ASSERT_EQ(gpu::LaunchKernel(Add, 1, 32, 0, Handle(*stream), {.value = value, .by = 1}),
              hipSuccess);
    const std::unique_ptr<Event> event = *stream->Record();
    ASSERT_FALSE(event->Done()) << round;
    ASSERT_EQ(*value, 32 * (round - 1));
    ASSERT_TRUE(event->Wait().ok());
    ASSERT_TRUE(event->Done());
    ASSERT_EQ(*value, 32 * round);
  }
}

TEST(HipStreamTest, WaitsForItsWorkBeforeItGoes) {
  simt::SetUp({.timing = simt::Timing::kLazy});
  std::unique_ptr<HipDevice> device = Open();
  const Buffer memory = *device->AllocateHost(Bytes(sizeof(int)));
  auto* const value = reinterpret_cast<int*>(memory.data());
  *value = 0;
  std::unique_ptr<Stream> stream = *device->NewStream();
  ASSERT_EQ(gpu::LaunchKernel(Add, 1, 32, 0, Handle(*stream), {.value = value, .by = 1}),
            hipSuccess);
  stream.reset();
  EXPECT_EQ(*value, 32);
}

TEST(HipDeviceTest, AStickyErrorFencesThatDeviceAndNoOther) {
  for (const bool by_copy : {false, true}) {
    simt::SetUp({.num_devices = 2, .timing = simt::Timing::kLazy});
    std::unique_ptr<HipDevice> device = Open(0), other = Open(1);
    std::unique_ptr<Stream> stream = *device->NewStream(), other_stream = *other->NewStream();
    const Buffer pool = *device->Allocate(Bytes(2 * kMiB));
    const PageCopy copy{.destination = pool.data() + 64,
                        .source = pool.data(),
                        .row_bytes = 64,
                        .layer_stride_bytes = 128,
                        .num_layers = 2};
    simt::FaultPlan fault;
    (by_copy ? fault.failing_copy : fault.failing_launch) = 1;
    simt::SetFaults(0, fault);
    ASSERT_TRUE(device->Use().ok());
    if (by_copy) {
      ASSERT_TRUE(stream->CopyPages({&copy, 1}).ok());
    } else {
      ASSERT_EQ(gpu::LaunchKernel(Add, 1, 32, 0, Handle(*stream),
                                  {.value = reinterpret_cast<int*>(pool.data()), .by = 1}),
                hipSuccess);
    }
    const std::unique_ptr<Event> event = *stream->Record();
    const absl::Status first = event->Wait();
    EXPECT_EQ(first.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(first.message(),
                AllOf(HasSubstr("hip:0: "), HasSubstr(hipGetErrorString(hipErrorIllegalAddress))));
    EXPECT_TRUE(event->Done());
    EXPECT_EQ(event->Wait(), first);
    EXPECT_EQ(stream->CopyPages({&copy, 1}), first);
    EXPECT_EQ(stream->Record().status(), first);
    EXPECT_EQ(device->Use(), first);
    EXPECT_EQ(device->Allocate(Bytes(2 * kMiB)).status(), first);
    EXPECT_EQ(device->AllocateHost(Bytes(64)).status(), first);
    EXPECT_EQ(device->NewStream().status(), first);

    const Buffer others = *other->Allocate(Bytes(2 * kMiB));
    ASSERT_TRUE(other->Use().ok());
    EXPECT_EQ(gpu::LaunchKernel(Add, 1, 32, 0, Handle(*other_stream),
                                {.value = reinterpret_cast<int*>(others.data()), .by = 1}),
              hipSuccess);
    EXPECT_TRUE((*other_stream->Record())->Wait().ok());
    EXPECT_EQ(*reinterpret_cast<int*>(others.data()), 32);
  }
}

class NoKernels final : public AttentionBackend {
 public:
  const Capabilities& capabilities() const override { return capabilities_; }
  absl::Status Supports(const KernelKey&) const override { return absl::OkStatus(); }
  std::unique_ptr<LaunchPlan> NewPlan() const override { return nullptr; }
  absl::Status Plan(const AttentionParams&, LaunchPlan&) const override { return absl::OkStatus(); }
  absl::Status Launch(Stream&, const LaunchPlan&, const AttentionParams&) override {
    return absl::OkStatus();
  }

 private:
  Capabilities capabilities_;
};

TEST(HipPlatformTest, OpensWhatCanBeUsedAndSaysWhatCannot) {
  simt::SetUp({.num_devices = 3});
  const auto all_but_the_first =
      [](HipDevice& device) -> absl::StatusOr<std::unique_ptr<AttentionBackend>> {
    if (device.ordinal() == 0) return absl::UnimplementedError("no kernels for it");
    return std::make_unique<NoKernels>();
  };
  const absl::StatusOr<Platform> platform = OpenHipPlatform(all_but_the_first);
  ASSERT_TRUE(platform.ok()) << platform.status();
  ASSERT_EQ(platform->devices.size(), 2u);
  EXPECT_THAT(platform->devices[0].device->info().name, HasSubstr("hip:1: "));
  EXPECT_THAT(platform->devices[1].device->info().name, HasSubstr("hip:2: "));
  EXPECT_THAT(platform->notes, ElementsAre("hip:0 is passed over: no kernels for it",
                                           "HIP shows 3 devices, 2 in use"));
}

TEST(HipPlatformTest, WithoutAUsableDeviceSaysWhyOfEach) {
  const auto none = [](HipDevice&) -> absl::StatusOr<std::unique_ptr<AttentionBackend>> {
    return absl::UnimplementedError("no kernels for it");
  };
  simt::SetUp({.num_devices = 2});
  const absl::Status status = OpenHipPlatform(none).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr("hip:0 is passed over: no kernels for it"), HasSubstr("hip:1")));
  simt::SetUp({.num_devices = 0});
  EXPECT_EQ(OpenHipPlatform(none).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace attnd
