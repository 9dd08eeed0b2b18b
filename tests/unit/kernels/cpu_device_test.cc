// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu_device.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace attnd {
namespace {

constexpr Bytes kMiB{1 << 20};

TEST(CpuDeviceTest, AllocatesZeroedMemoryAlignedTo2MiB) {
  std::unique_ptr<CpuDevice> device = MakeCpuDevice({.num_threads = 1});
  for (uint64_t size : {uint64_t{1}, uint64_t{4097}, uint64_t{5} << 20}) {
    absl::StatusOr<Buffer> buffer = device->Allocate(Bytes(size));
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % (2 << 20), 0u);
    EXPECT_EQ(buffer->size(), Bytes(size));
    EXPECT_TRUE(std::all_of(buffer->data(), buffer->data() + size,
                            [](std::byte b) { return b == std::byte{0}; }));
    std::fill_n(buffer->data(), size, std::byte{1});
  }
}

TEST(CpuDeviceTest, SaysWhatIsFreeWhenMemoryRunsOut) {
  std::unique_ptr<CpuDevice> device =
      MakeCpuDevice({.num_threads = 1, .memory_limit = Bytes(10 * kMiB.value())});
  EXPECT_EQ(device->info().total_memory, Bytes(10 * kMiB.value()));
  absl::StatusOr<Buffer> first = device->Allocate(Bytes(7 * kMiB.value()));
  ASSERT_TRUE(first.ok());
  const absl::Status refused = device->Allocate(Bytes(4 * kMiB.value())).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()),
              testing::AllOf(testing::HasSubstr("4194304 bytes asked"),
                             testing::HasSubstr("3145728 of 10485760 free")));
  *first = Buffer();  // gives its memory back
  EXPECT_TRUE(device->Allocate(Bytes(10 * kMiB.value())).ok());
  EXPECT_EQ(device->Allocate(Bytes(0)).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(CpuDeviceTest, CopiesPagesInOrder) {
  std::unique_ptr<CpuDevice> device = MakeCpuDevice({.num_threads = 2});
  std::unique_ptr<Stream> stream = *device->NewStream();
  constexpr uint64_t kStride = 300'000, kRow = 200'000;
  constexpr int kLayers = 3;
  std::vector<std::byte> a(kStride * kLayers), b(a.size(), std::byte{0}), c(a.size(), std::byte{0});
  for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<std::byte>(i * 31);
  // The second copy reads what the first one wrote.
  const std::array copies = {PageCopy{b.data(), a.data(), kRow, kStride, kLayers},
                             PageCopy{c.data(), b.data(), kRow, kStride, kLayers}};
  ASSERT_TRUE(stream->CopyPages(copies).ok());
  absl::StatusOr<std::unique_ptr<Event>> event = stream->Record();
  ASSERT_TRUE(event.ok());
  EXPECT_TRUE((*event)->Done());
  EXPECT_TRUE((*event)->Wait().ok());
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(c[i], i % kStride < kRow ? a[i] : std::byte{0}) << i;
  }
}

TEST(CpuDeviceTest, NamesItsThreadsAndInstructions) {
  const std::string name = MakeCpuDevice({.num_threads = 3})->info().name;
  EXPECT_THAT(name, testing::StartsWith("cpu: 3 threads, "));
  EXPECT_TRUE(MakeCpuDevice({.num_threads = 3})->info().host_memory);
}

}  // namespace
}  // namespace attnd
