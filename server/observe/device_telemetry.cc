// SPDX-License-Identifier: Apache-2.0
#include "server/observe/device_telemetry.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace attnd {
namespace {

// The driver has three; others are allowed for and passed over.
constexpr int kMaxTemperatures = 16;
constexpr double kMilli = 1e-3, kMicro = 1e-6;

std::optional<std::string> ReadLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  return std::string(absl::StripAsciiWhitespace(line));
}

std::optional<int64_t> ReadNumber(const std::string& path) {
  const std::optional<std::string> line = ReadLine(path);
  int64_t value = 0;
  if (!line || !absl::SimpleAtoi(*line, &value)) return std::nullopt;
  return value;
}

std::optional<Bytes> ReadBytes(const std::string& path) {
  const std::optional<int64_t> value = ReadNumber(path);
  if (!value || *value < 0) return std::nullopt;
  return Bytes(static_cast<uint64_t>(*value));
}

// The folders hwmonN of a device, in order.
std::vector<std::string> Monitors(const std::string& device_folder) {
  std::vector<std::string> folders;
  std::error_code error;
  for (std::filesystem::directory_iterator at(device_folder + "/hwmon", error), end;
       !error && at != end; at.increment(error)) {
    if (at->path().filename().string().starts_with("hwmon")) folders.push_back(at->path().string());
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

}  // namespace

void DeviceTelemetry::ReadMonitor(const std::string& folder, DeviceSample& sample) const {
  for (int i = 1; i <= kMaxTemperatures; ++i) {
    const std::string sensor = absl::StrCat(folder, "/temp", i);
    const std::optional<std::string> label = ReadLine(sensor + "_label");
    if (!label) continue;
    std::optional<double>* celsius = *label == "edge"       ? &sample.edge_celsius
                                     : *label == "junction" ? &sample.junction_celsius
                                     : *label == "mem"      ? &sample.memory_celsius
                                                            : nullptr;
    const std::optional<int64_t> millidegrees = ReadNumber(sensor + "_input");
    if (celsius != nullptr && millidegrees) *celsius = kMilli * static_cast<double>(*millidegrees);
  }
  // Which of the two a driver has depends on the GPU.
  std::optional<int64_t> microwatts = ReadNumber(folder + "/power1_average");
  if (!microwatts) microwatts = ReadNumber(folder + "/power1_input");
  if (microwatts && *microwatts >= 0) {
    sample.power_watts = kMicro * static_cast<double>(*microwatts);
  }
}

std::optional<Bytes> DeviceTelemetry::UsedHostMemory(Bytes total) const {
  std::ifstream meminfo(root_ + "/proc/meminfo");
  std::optional<uint64_t> machine_bytes, available_bytes;
  for (std::string line; std::getline(meminfo, line);) {
    std::istringstream words(line);
    std::string name;
    uint64_t kibibytes = 0;
    if (!(words >> name >> kibibytes)) continue;
    if (name == "MemTotal:") machine_bytes = kibibytes * 1024;
    if (name == "MemAvailable:") available_bytes = kibibytes * 1024;
  }
  // Where the process may use less than the machine has, the file speaks of something else.
  if (machine_bytes != total.value() || !available_bytes || *available_bytes > *machine_bytes) {
    return std::nullopt;
  }
  return Bytes(*machine_bytes - *available_bytes);
}

DeviceSample DeviceTelemetry::Sample(Device& device, std::string_view backend) const {
  const DeviceInfo& info = device.info();
  DeviceSample sample{
      .name = info.name, .backend = std::string(backend), .total_memory = info.total_memory};
  if (info.host_memory) {
    sample.used_memory = UsedHostMemory(info.total_memory);
    return sample;
  }
  if (!info.pci_address.empty()) {
    const std::string folder = absl::StrCat(root_, "/sys/bus/pci/devices/", info.pci_address);
    sample.used_memory = ReadBytes(folder + "/mem_info_vram_used");
    if (const auto total = ReadBytes(folder + "/mem_info_vram_total");
        total && sample.used_memory) {
      sample.total_memory = *total;
    }
    for (const std::string& monitor : Monitors(folder)) ReadMonitor(monitor, sample);
  }
  if (!sample.used_memory) sample.used_memory = device.UsedMemory();
  return sample;
}

}  // namespace attnd
