// SPDX-License-Identifier: Apache-2.0
//
// Attention with a cache that the daemon keeps: three tokens of a prompt, then one more.
//
//   quickstart 127.0.0.1:7450
#include <cstdlib>
#include <iostream>
#include <vector>

#include "client/cpp/client.h"

// The value, or the end of the example with the reason.
template <typename T>
T Must(absl::StatusOr<T> value) {
  if (value.ok()) return *std::move(value);
  std::cerr << value.status() << "\n";
  std::exit(1);
}

int main(int argc, char** argv) {
  using namespace attnd::client;  // NOLINT(google-build-using-namespace): an example
  auto client = Must(Client::Connect({.address = argc > 1 ? argv[1] : "127.0.0.1:7450"}));
  auto cache = Must(client->OpenCache(
      "quickstart", {.num_layers = 1, .num_query_heads = 4, .num_kv_heads = 2, .head_dim_k = 64}));
  auto session = Must(client->OpenSession({.label = "quickstart"}));
  auto sequence = Must(session->CreateSequence(cache));

  for (int64_t start : {0, 3}) {
    const size_t rows = start == 0 ? 3 : 1;
    std::vector<float> q(rows * 4 * 64, 0.5f), k(rows * 2 * 64, 0.5f), v(rows * 2 * 64, 2.0f);
    AttendItem item{.sequence = &sequence, .start_position = start, .q = q, .k = k, .v = v};
    item.options.causal = true;
    AttendResult result = Must(session->Attend({&item, 1}));
    if (!result.ok()) return std::cerr << result.first_error() << "\n", 1;
    std::cout << result.items()[0].layer_length
              << " tokens, out[0] = " << result.items()[0].out.f32()[0] << "\n";
  }
  return session->Close().ok() ? 0 : 1;
}
