// SPDX-License-Identifier: Apache-2.0
#include "client/cli/command.h"

#include <iostream>

#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "client/cpp/error_detail.h"

namespace attnd::cli {

absl::StatusOr<std::unique_ptr<client::Client>> Connect(const Globals& globals) {
  const Duration timeout(static_cast<int64_t>(globals.timeout_s * 1e9));
  return client::Client::Connect({.address = globals.address, .call_timeout = timeout});
}

int Fail(const Globals& globals, const absl::Status& status) {
  std::cerr << "attnctl: " << absl::StatusCodeToString(status.code()) << ": " << status.message()
            << "\n";
  const auto detail = client::GetErrorDetail(status);
  if (detail && detail->reason == client::ErrorReason::kPagesExhausted) {
    std::cerr << absl::StrFormat("  needed: %d pages, free: %d pages\n", detail->needed_pages,
                                 detail->free_pages);
  }
  if (detail && detail->reason == client::ErrorReason::kDraining) {
    std::cerr << "  The daemon is draining and takes no new work; restart it or use another.\n";
  }
  if (!client::IsChannelError(status)) return kFailure;
  std::cerr << "  Is attnd running? Start it with: attnd --listen " << globals.address
            << "\n  Does it listen elsewhere? Use --address or ATTND_ADDRESS. `attnctl doctor` "
               "looks for the cause.\n";
  return kNoDaemon;
}

nlohmann::json ToJson(const client::CacheInfo& cache) {
  const client::CacheGeometry& geometry = cache.geometry;
  return {{"name", cache.name},
          {"id", cache.id.ToString()},
          {"num_layers", geometry.num_layers},
          {"num_query_heads", geometry.num_query_heads},
          {"num_kv_heads", geometry.num_kv_heads},
          {"head_dim_k", geometry.head_dim_k},
          {"head_dim_v", geometry.value_dim()},
          {"kv_dtype", std::string(Name(geometry.kv_dtype))},
          {"page_size_tokens", geometry.page_size_tokens},
          {"page_quota", cache.page_quota},
          {"pages_used", cache.pages_used},
          {"pages_cached", cache.pages_cached},
          {"pages_free", cache.pages_free},
          {"pages_reserved", cache.pages_reserved},
          {"slabs", cache.slabs},
          {"slab_bytes", cache.slab_bytes},
          {"page_bytes", cache.page_bytes},
          {"sequences", cache.sequences}};
}

}  // namespace attnd::cli
