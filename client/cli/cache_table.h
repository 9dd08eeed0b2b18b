// SPDX-License-Identifier: Apache-2.0
//
// The table of caches that status, caches and top show. Pure function.
#pragma once

#include <string>
#include <vector>

#include "client/cpp/types.h"

namespace attnd::cli {

std::string CacheTable(const std::vector<client::CacheInfo>& caches, int indent = 0);

}  // namespace attnd::cli
