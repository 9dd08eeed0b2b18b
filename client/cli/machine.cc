// SPDX-License-Identifier: Apache-2.0
#include "client/cli/machine.h"

#include <grp.h>
#include <unistd.h>
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>

#include "absl/strings/str_cat.h"

namespace attnd::cli {
namespace {

std::optional<uint64_t> MemInfo(const std::string& field) {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(field + ":", 0) == 0) {
      return std::strtoull(line.c_str() + field.size() + 1, nullptr, 10) * 1024;
    }
  }
  return std::nullopt;
}

// This process's cgroup v2 folder, "" where there is none.
std::string CgroupFolder() {
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("0::", 0) == 0) return "/sys/fs/cgroup" + line.substr(3);
  }
  return "";
}

// A file of the cgroup or of the nearest folder above it that has one: inside a container the root
// of the mount is the container's own.
std::optional<std::string> CgroupFile(const std::string& name) {
  std::string folder = CgroupFolder();
  while (folder.rfind("/sys/fs/cgroup", 0) == 0) {
    if (auto text = ReadFile(absl::StrCat(folder, "/", name))) return text;
    folder.resize(folder.rfind('/'));
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  text.erase(text.find_last_not_of(" \n\t") + 1);
  return text;
}

std::optional<uint64_t> MemTotalBytes() { return MemInfo("MemTotal"); }
std::optional<uint64_t> MemAvailableBytes() { return MemInfo("MemAvailable"); }

std::optional<uint64_t> CgroupMemoryLimitBytes() {
  auto limit = CgroupFile("memory.max");
  if (!limit) limit = ReadFile("/sys/fs/cgroup/memory/memory.limit_in_bytes");
  if (!limit || *limit == "max") return std::nullopt;
  const uint64_t bytes = std::strtoull(limit->c_str(), nullptr, 10);
  // Version 1 says "no limit" with a number larger than any memory.
  if (bytes == 0 || bytes > (uint64_t{1} << 60)) return std::nullopt;
  return bytes;
}

std::optional<double> CgroupCpuLimit() {
  const auto limit = CgroupFile("cpu.max");
  if (!limit || limit->rfind("max", 0) == 0) return std::nullopt;
  std::istringstream words(*limit);
  double quota = 0, period = 0;
  words >> quota >> period;
  if (quota <= 0 || period <= 0) return std::nullopt;
  return quota / period;
}

std::vector<std::string> CpuFlags(const std::vector<std::string>& wanted) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("flags", 0) != 0 && line.rfind("Features", 0) != 0) continue;
    std::istringstream words(line);
    const std::vector<std::string> flags{std::istream_iterator<std::string>(words), {}};
    std::vector<std::string> found;
    std::copy_if(wanted.begin(), wanted.end(), std::back_inserter(found), [&](const auto& flag) {
      return std::find(flags.begin(), flags.end(), flag) != flags.end();
    });
    return found;
  }
  return {};
}

std::optional<std::string> BracketedChoice(const std::string& path) {
  const auto text = ReadFile(path);
  if (!text) return std::nullopt;
  const size_t open = text->find('['), close = text->find(']');
  if (open == std::string::npos || close == std::string::npos) return std::nullopt;
  return text->substr(open + 1, close - open - 1);
}

std::vector<std::string> GroupNames() {
  std::vector<gid_t> ids(static_cast<size_t>(std::max(0, getgroups(0, nullptr))));
  if (!ids.empty())
    ids.resize(static_cast<size_t>(getgroups(static_cast<int>(ids.size()), ids.data())));
  ids.push_back(getegid());
  std::vector<std::string> names;
  for (const gid_t id : ids) {
    if (const group* entry = getgrgid(id)) names.emplace_back(entry->gr_name);
  }
  return names;
}

}  // namespace attnd::cli
