// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu_topology.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <string>

namespace attnd {
namespace {

// The first two words of a file; empty where there is none.
struct Words {
  std::string first, second;
};
Words ReadWords(const std::string& path) {
  Words words;
  std::ifstream file(path);
  file >> words.first >> words.second;
  return words;
}

std::optional<int64_t> ParsePositive(const std::string& text) {
  char* end = nullptr;
  const int64_t value = std::strtoll(text.c_str(), &end, 10);
  if (end == text.c_str() || value <= 0) return std::nullopt;
  switch (*end) {  // sysfs writes cache sizes as "48K"
    case 'K':
      return value << 10;
    case 'M':
      return value << 20;
    default:
      return value;
  }
}

// CPUs that the cgroup's bandwidth limit leaves: v2 "quota period", v1 in two files.
std::optional<int64_t> CgroupCpus() {
  const Words v2 = ReadWords("/sys/fs/cgroup/cpu.max");
  std::optional<int64_t> quota = ParsePositive(v2.first);
  std::optional<int64_t> period = ParsePositive(v2.second);
  if (!quota || !period) {
    quota = ParsePositive(ReadWords("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").first);
    period = ParsePositive(ReadWords("/sys/fs/cgroup/cpu/cpu.cfs_period_us").first);
  }
  if (!quota || !period) return std::nullopt;
  return std::max<int64_t>(1, (*quota + *period - 1) / *period);
}

std::optional<int64_t> CgroupMemory() {
  if (auto v2 = ParsePositive(ReadWords("/sys/fs/cgroup/memory.max").first)) return v2;
  return ParsePositive(ReadWords("/sys/fs/cgroup/memory/memory.limit_in_bytes").first);
}

}  // namespace

int UsableCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int64_t cpus = 1;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    cpus = CPU_COUNT(&set);
  } else {
    cpus = sysconf(_SC_NPROCESSORS_ONLN);  // more CPUs than a cpu_set_t holds
  }
  if (auto limit = CgroupCpus()) cpus = std::min(cpus, *limit);
  return static_cast<int>(std::max<int64_t>(1, cpus));
}

CacheSizes DetectCacheSizes() {
  CacheSizes sizes;
  for (int index = 0; index < 8; ++index) {
    const std::string base =
        "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/";
    const std::string type = ReadWords(base + "type").first;
    const std::optional<int64_t> level = ParsePositive(ReadWords(base + "level").first);
    const std::optional<int64_t> bytes = ParsePositive(ReadWords(base + "size").first);
    if (!level || !bytes || type == "Instruction") continue;
    if (*level == 1) sizes.l1_bytes = *bytes;
    if (*level == 2) sizes.l2_bytes = *bytes;
  }
  return sizes;
}

Bytes UsableMemory() {
  const int64_t pages = std::max<int64_t>(1, sysconf(_SC_PHYS_PAGES));
  int64_t bytes = pages * sysconf(_SC_PAGESIZE);
  if (auto limit = CgroupMemory()) bytes = std::min(bytes, *limit);
  return Bytes(static_cast<uint64_t>(bytes));
}

}  // namespace attnd
