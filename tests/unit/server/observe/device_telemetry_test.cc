// SPDX-License-Identifier: Apache-2.0
//
// Sensors of a machine whose files the test has written.
#include "server/observe/device_telemetry.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace attnd {
namespace {

constexpr char kAddress[] = "0000:03:00.0";

DeviceInfo Named(const std::string& name, uint64_t total_memory) {
  DeviceInfo info;
  info.name = name;
  info.total_memory = Bytes(total_memory);
  return info;
}

DeviceInfo Gpu() {
  DeviceInfo info = Named("hip:0: a GPU", 1000);
  info.arch = "gfx1100";
  info.pci_address = kAddress;
  return info;
}

// Only says what it is.
class TellingDevice final : public Device {
 public:
  explicit TellingDevice(DeviceInfo info) : info_(std::move(info)) {}
  const DeviceInfo& info() const override { return info_; }
  absl::StatusOr<Buffer> Allocate(Bytes) override { return absl::UnimplementedError("no memory"); }
  absl::StatusOr<Buffer> AllocateHost(Bytes size) override { return Allocate(size); }
  absl::StatusOr<std::unique_ptr<Stream>> NewStream() override {
    return absl::UnimplementedError("no streams");
  }
  std::optional<Bytes> UsedMemory() override { return used; }

  std::optional<Bytes> used;

 private:
  const DeviceInfo info_;
};

class DeviceTelemetryTest : public testing::Test {
 protected:
  DeviceTelemetryTest() {
    std::string pattern = testing::TempDir() + "/telemetry.XXXXXX";
    root_ = mkdtemp(pattern.data());
  }
  ~DeviceTelemetryTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path full = root_ + path;
    std::filesystem::create_directories(full.parent_path());
    std::ofstream(full) << text;
  }
  void WriteGpu(const std::string& file, const std::string& text) {
    Write(std::string("/sys/bus/pci/devices/") + kAddress + "/" + file, text);
  }
  void WriteAmdGpu() {
    WriteGpu("mem_info_vram_total", "25753026560\n");
    WriteGpu("mem_info_vram_used", "1048576\n");
    WriteGpu("hwmon/hwmon3/temp1_label", "edge\n");
    WriteGpu("hwmon/hwmon3/temp1_input", "43000\n");
    WriteGpu("hwmon/hwmon3/temp2_label", "junction\n");
    WriteGpu("hwmon/hwmon3/temp2_input", "47500\n");
    WriteGpu("hwmon/hwmon3/temp3_label", "mem\n");
    WriteGpu("hwmon/hwmon3/temp3_input", "50000\n");
    WriteGpu("hwmon/hwmon3/power1_average", "28250000\n");
  }

  DeviceSample Sample() { return DeviceTelemetry(root_).Sample(gpu_, "hip"); }

  std::string root_;
  TellingDevice gpu_{Gpu()};
};

TEST_F(DeviceTelemetryTest, ReadsWhatTheAmdDriverShows) {
  WriteAmdGpu();
  const DeviceSample sample = Sample();
  EXPECT_EQ(sample.name, "hip:0: a GPU");
  EXPECT_EQ(sample.backend, "hip");
  EXPECT_EQ(sample.total_memory, Bytes(25753026560));
  EXPECT_EQ(sample.used_memory, Bytes(1048576));
  EXPECT_DOUBLE_EQ(sample.edge_celsius.value_or(0), 43);
  EXPECT_DOUBLE_EQ(sample.junction_celsius.value_or(0), 47.5);
  EXPECT_DOUBLE_EQ(sample.memory_celsius.value_or(0), 50);
  EXPECT_DOUBLE_EQ(sample.power_watts.value_or(0), 28.25);
}

TEST_F(DeviceTelemetryTest, GoesByTheSensorsLabelsNotTheirNumbers) {
  WriteGpu("hwmon/hwmon0/temp2_label", "edge\n");
  WriteGpu("hwmon/hwmon0/temp2_input", "31000\n");
  WriteGpu("hwmon/hwmon0/temp7_label", "mem\n");
  WriteGpu("hwmon/hwmon0/temp7_input", "-5000\n");
  WriteGpu("hwmon/hwmon0/temp1_label", "liquid\n");
  WriteGpu("hwmon/hwmon0/temp1_input", "99000\n");
  // The driver of some GPUs has this one instead of the average.
  WriteGpu("hwmon/hwmon0/power1_input", "9000000\n");
  const DeviceSample sample = Sample();
  EXPECT_DOUBLE_EQ(sample.edge_celsius.value_or(0), 31);
  EXPECT_FALSE(sample.junction_celsius.has_value());
  EXPECT_DOUBLE_EQ(sample.memory_celsius.value_or(0), -5);
  EXPECT_DOUBLE_EQ(sample.power_watts.value_or(0), 9);
}

TEST_F(DeviceTelemetryTest, LeavesOutWhatIsMissingOrRubbish) {
  DeviceSample sample = Sample();  // no folder at all
  EXPECT_EQ(sample.total_memory, Bytes(1000));
  EXPECT_FALSE(sample.used_memory || sample.edge_celsius || sample.power_watts);

  WriteAmdGpu();
  WriteGpu("mem_info_vram_used", "");
  WriteGpu("hwmon/hwmon3/temp1_input", "warm\n");
  WriteGpu("hwmon/hwmon3/power1_average", "-1\n");
  std::filesystem::remove(root_ + "/sys/bus/pci/devices/" + kAddress + "/hwmon/hwmon3/temp2_input");
  // A folder in the place of a file cannot be read.
  std::filesystem::remove(root_ + "/sys/bus/pci/devices/" + kAddress + "/hwmon/hwmon3/temp3_input");
  WriteGpu("hwmon/hwmon3/temp3_input/x", "1");
  sample = Sample();
  EXPECT_FALSE(sample.used_memory || sample.edge_celsius || sample.junction_celsius ||
               sample.memory_celsius || sample.power_watts);
  EXPECT_EQ(sample.total_memory, Bytes(1000));
}

TEST_F(DeviceTelemetryTest, AsksTheDeviceWhereTheDriverShowsNoMemory) {
  gpu_.used = Bytes(400);
  DeviceSample sample = Sample();
  EXPECT_EQ(sample.used_memory, Bytes(400));
  EXPECT_EQ(sample.total_memory, Bytes(1000));
  EXPECT_FALSE(sample.power_watts.has_value());
  WriteAmdGpu();
  EXPECT_EQ(Sample().used_memory, Bytes(1048576));
}

TEST_F(DeviceTelemetryTest, ADeviceWithoutAnAddressHasNoSensors) {
  WriteAmdGpu();
  Write("/sys/bus/pci/devices/hwmon/hwmon0/power1_average", "1000000\n");
  TellingDevice nowhere(Named("hip:1", 7));
  const DeviceSample sample = DeviceTelemetry(root_).Sample(nowhere, "hip");
  EXPECT_FALSE(sample.power_watts || sample.edge_celsius || sample.used_memory);
}

TEST_F(DeviceTelemetryTest, TheCpusMemoryIsTheMachines) {
  DeviceInfo info = Named("cpu", 8 << 20);
  info.host_memory = true;
  TellingDevice cpu(info);
  EXPECT_FALSE(DeviceTelemetry(root_).Sample(cpu, "cpu").used_memory.has_value());
  Write("/proc/meminfo", "MemTotal:  8192 kB\nMemFree: 12 kB\nMemAvailable:   6144 kB\n");
  EXPECT_EQ(DeviceTelemetry(root_).Sample(cpu, "cpu").used_memory, Bytes(2 << 20));
  // The process may not use all of it: a container's limit, say.
  Write("/proc/meminfo", "MemTotal:  16384 kB\nMemAvailable:   6144 kB\n");
  EXPECT_FALSE(DeviceTelemetry(root_).Sample(cpu, "cpu").used_memory.has_value());
  Write("/proc/meminfo", "MemTotal:  8192 kB\nMemAvailable:   9000 kB\n");
  EXPECT_FALSE(DeviceTelemetry(root_).Sample(cpu, "cpu").used_memory.has_value());
}

}  // namespace
}  // namespace attnd
