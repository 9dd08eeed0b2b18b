// SPDX-License-Identifier: Apache-2.0
//
// Attention with a cache that the daemon keeps: three tokens of a prompt, then one more.
//
//   quickstart 127.0.0.1:7450
#include <cstdio>
#include <vector>

#include "client/cpp/client.h"

using namespace attnd::client;  // NOLINT(google-build-using-namespace): an example, not a library

int main(int argc, char** argv) {
  auto client = Client::Connect({.address = argc > 1 ? argv[1] : "127.0.0.1:7450"});
  if (!client.ok()) return std::fprintf(stderr, "%s\n", client.status().ToString().c_str()), 1;
  auto cache = (*client)->OpenCache(
      "quickstart", {.num_layers = 1, .num_query_heads = 4, .num_kv_heads = 2, .head_dim_k = 64});
  if (!cache.ok()) return std::fprintf(stderr, "%s\n", cache.status().ToString().c_str()), 1;
  auto session = (*client)->OpenSession({.label = "quickstart"});
  if (!session.ok()) return std::fprintf(stderr, "%s\n", session.status().ToString().c_str()), 1;
  auto sequence = (*session)->CreateSequence(*cache);
  if (!sequence.ok()) return std::fprintf(stderr, "%s\n", sequence.status().ToString().c_str()), 1;

  for (int64_t start : {0, 3}) {
    const size_t rows = start == 0 ? 3 : 1;
    const std::vector<float> q(rows * 4 * 64, 0.5f), k(rows * 2 * 64, 0.5f), v(rows * 2 * 64, 2.0f);
    const AttendItem item{.sequence = &*sequence,
                          .start_position = start,
                          .q = q,
                          .k = k,
                          .v = v,
                          .options = {.causal = true}};
    auto result = (*session)->Attend({&item, 1});
    if (!result.ok() || !result->ok()) return std::fprintf(stderr, "attend failed\n"), 1;
    std::printf("length %ld: out[0] = %.3f\n", static_cast<long>(result->items()[0].layer_length),
                static_cast<double>(result->items()[0].out.f32()[0]));
  }
  return (*session)->Close().ok() ? 0 : 1;
}
