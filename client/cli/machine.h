// SPDX-License-Identifier: Apache-2.0
//
// What /proc, /sys and the system calls say about this machine, for `attnctl doctor`. Every
// function answers "unknown" (nullopt, empty) rather than failing. Thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace attnd::cli {

// A file's contents without trailing white space, or nothing where it cannot be read.
std::optional<std::string> ReadFile(const std::string& path);
std::optional<uint64_t> MemTotalBytes();
std::optional<uint64_t> MemAvailableBytes();
// The memory limit of this process's cgroup (v2 or v1); nothing where there is none.
std::optional<uint64_t> CgroupMemoryLimitBytes();
// CPUs that the cgroup's quota allows; nothing where there is none.
std::optional<double> CgroupCpuLimit();
// Those of `wanted` that /proc/cpuinfo lists.
std::vector<std::string> CpuFlags(const std::vector<std::string>& wanted);
// The choice in brackets of a file like "always [madvise] never".
std::optional<std::string> BracketedChoice(const std::string& path);
// The names of the groups that this process is in.
std::vector<std::string> GroupNames();

}  // namespace attnd::cli
