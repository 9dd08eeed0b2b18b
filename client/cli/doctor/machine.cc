// SPDX-License-Identifier: Apache-2.0
#include "client/cli/doctor/machine.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "client/cli/doctor/text.h"

namespace attnd::cli {
namespace {

std::optional<uint64_t> MemInfo(const Host& host, const std::string& field) {
  const std::string text = host.Read("/proc/meminfo").value_or("");
  for (const std::string_view line : Split(text, '\n')) {
    const std::vector<std::string_view> words = Words(line);
    if (words.size() < 2 || words[0] != field + ":") continue;
    if (const auto kib = ToNumber(words[1])) return *kib * 1024;
  }
  return std::nullopt;
}

// This process's cgroup v2 folder, "" where there is none.
std::string CgroupFolder(const Host& host) {
  const std::string text = host.Read("/proc/self/cgroup").value_or("");
  for (const std::string_view line : Split(text, '\n')) {
    if (line.rfind("0::", 0) == 0) return "/sys/fs/cgroup" + std::string(line.substr(3));
  }
  return "";
}

// A file of the cgroup or of the nearest folder above it that has one: inside a container the root
// of the mount is the container's own.
std::optional<std::string> CgroupFile(const Host& host, const std::string& name) {
  std::string folder = CgroupFolder(host);
  while (folder.rfind("/sys/fs/cgroup", 0) == 0) {
    if (auto text = host.Read(absl::StrCat(folder, "/", name))) return text;
    folder.resize(folder.rfind('/'));
  }
  return std::nullopt;
}

}  // namespace

std::optional<uint64_t> MemTotalBytes(const Host& host) { return MemInfo(host, "MemTotal"); }
std::optional<uint64_t> MemAvailableBytes(const Host& host) {
  return MemInfo(host, "MemAvailable");
}

std::optional<uint64_t> CgroupMemoryLimitBytes(const Host& host) {
  auto limit = CgroupFile(host, "memory.max");
  if (!limit) limit = host.Read("/sys/fs/cgroup/memory/memory.limit_in_bytes");
  const uint64_t bytes = limit ? ToNumber(*limit).value_or(0) : 0;  // 0 for "max" too
  // Version 1 says "no limit" with a number larger than any memory.
  if (bytes == 0 || bytes > (uint64_t{1} << 60)) return std::nullopt;
  return bytes;
}

std::optional<double> CgroupCpuLimit(const Host& host) {
  const auto limit = CgroupFile(host, "cpu.max");
  if (!limit) return std::nullopt;
  const std::vector<std::string_view> words = Words(*limit);
  if (words.size() < 2) return std::nullopt;
  const auto quota = ToNumber(words[0]), period = ToNumber(words[1]);
  if (!quota || !period || *quota == 0 || *period == 0) return std::nullopt;  // "max 100000"
  return static_cast<double>(*quota) / static_cast<double>(*period);
}

std::vector<std::string> CpuFlags(const Host& host, const std::vector<std::string>& wanted) {
  const std::string text = host.Read("/proc/cpuinfo").value_or("");
  for (const std::string_view line : Split(text, '\n')) {
    if (line.rfind("flags", 0) != 0 && line.rfind("Features", 0) != 0) continue;
    const std::vector<std::string_view> flags = Words(line);
    std::vector<std::string> found;
    std::copy_if(wanted.begin(), wanted.end(), std::back_inserter(found), [&](const auto& flag) {
      return std::find(flags.begin(), flags.end(), flag) != flags.end();
    });
    return found;
  }
  return {};
}

std::optional<std::string> BracketedChoice(const Host& host, std::string_view path) {
  const auto text = host.Read(path);
  if (!text) return std::nullopt;
  const size_t open = text->find('['), close = text->find(']');
  if (open == std::string::npos || close == std::string::npos) return std::nullopt;
  return text->substr(open + 1, close - open - 1);
}

}  // namespace attnd::cli
