// SPDX-License-Identifier: Apache-2.0
#include "client/cli/cache_table.h"

#include "client/cli/format.h"
#include "client/cli/table.h"

namespace attnd::cli {

std::string CacheTable(const std::vector<client::CacheInfo>& caches, int indent) {
  Table table({"cache", "<geometry", "seqs", "pages used", "cached", "free", "reserved", "quota",
               "KV used", "held"});
  for (const client::CacheInfo& cache : caches) {
    table.Add(
        {cache.name, cache.geometry.ToString(), std::to_string(cache.sequences),
         std::to_string(cache.pages_used), std::to_string(cache.pages_cached),
         std::to_string(cache.pages_free), std::to_string(cache.pages_reserved),
         cache.page_quota == 0 ? "-" : std::to_string(cache.page_quota),
         HumanBytes(static_cast<double>(cache.pages_used) * static_cast<double>(cache.page_bytes)),
         HumanBytes(static_cast<double>(cache.slabs) * static_cast<double>(cache.slab_bytes))});
  }
  return table.ToString(indent);
}

}  // namespace attnd::cli
