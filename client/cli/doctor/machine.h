// SPDX-License-Identifier: Apache-2.0
//
// Memory, CPU and limits as /proc and /sys tell them. Every function answers "unknown" (nullopt,
// empty) rather than failing. Thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "client/cli/doctor/host.h"

namespace attnd::cli {

std::optional<uint64_t> MemTotalBytes(const Host& host);
std::optional<uint64_t> MemAvailableBytes(const Host& host);
// The memory limit of this process's cgroup (v2 or v1); nothing where there is none.
std::optional<uint64_t> CgroupMemoryLimitBytes(const Host& host);
// CPUs that the cgroup's quota allows; nothing where there is none.
std::optional<double> CgroupCpuLimit(const Host& host);
// Those of `wanted` that /proc/cpuinfo lists.
std::vector<std::string> CpuFlags(const Host& host, const std::vector<std::string>& wanted);
// The choice in brackets of a file like "always [madvise] never".
std::optional<std::string> BracketedChoice(const Host& host, std::string_view path);

}  // namespace attnd::cli
