// SPDX-License-Identifier: Apache-2.0
#include "client/cli/command.h"

#include <iostream>

#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "client/cpp/error_detail.h"

namespace attnd::cli {

void AddCredentialOptions(CLI::App& app, client::Credentials& credentials) {
  const auto file = [&app](const char* name, std::string& path, const char* help,
                           const char* variable) {
    app.add_option(name, path, help)->type_name("FILE")->envname(variable)->group("Security");
  };
  app.add_flag("--tls", credentials.tls, "TLS, with the system's CAs unless --tls_ca names others")
      ->envname("ATTND_TLS")
      ->group("Security");
  file("--tls_ca", credentials.tls_ca, "PEM: who signs the daemon's certificate; implies TLS",
       "ATTND_TLS_CA");
  file("--tls_cert", credentials.tls_cert, "PEM: this client's certificate, for mutual TLS",
       "ATTND_TLS_CERT");
  file("--tls_key", credentials.tls_key, "PEM: its key, closed to others", "ATTND_TLS_KEY");
  app.add_option("--tls_server_name", credentials.tls_server_name,
                 "Whom the daemon's certificate is for, where not for its address")
      ->type_name("NAME")
      ->envname("ATTND_TLS_SERVER_NAME")
      ->group("Security");
  file("--token_file", credentials.token_file,
       "The tenant's bearer token, in a file that is closed to others", "ATTND_TOKEN_FILE");
  app.add_flag("--insecure", credentials.insecure, "Let the token cross a network in plain text")
      ->group("Security");
}

absl::StatusOr<std::unique_ptr<client::Client>> Connect(const Globals& globals) {
  const Duration timeout(static_cast<int64_t>(globals.timeout_s * 1e9));
  return client::Client::Connect(
      {.address = globals.address, .credentials = globals.credentials, .call_timeout = timeout});
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
  if (absl::IsUnauthenticated(status) && globals.credentials.token_file.empty()) {
    std::cerr << "  The daemon knows its callers by token: name yours with --token_file or "
                 "ATTND_TOKEN_FILE.\n";
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
