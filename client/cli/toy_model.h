// SPDX-License-Identifier: Apache-2.0
//
// A model server's decode loop without the weights of a model.
//
// Of SmolLM2-135M it has what attention sees: 30 layers, 9 query heads, 3 KV heads, head dim 64,
// and that each layer's queries, keys and values depend on the attention of the layers below, so
// that an error anywhere changes the tokens that follow. Projections are signed permutations, drawn
// from a seed: cheap, and as orthogonal as real ones. The attention itself is the caller's.
// Thread-safe once constructed.
//
//   ToyModel model(/*seed=*/1);
//   std::vector<float> hidden = model.Embed(tokens, /*start=*/0);
//   for (int layer = 0; layer < model.geometry().num_layers; ++layer) {
//     Projections p = model.Project(layer, hidden);
//     model.AddAttention(layer, AttentionOf(p.q, p.k, p.v), hidden);
//   }
//   int32_t next = model.NextToken(hidden);
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "client/cpp/types.h"

namespace attnd::cli {

class ToyModel {
 public:
  static constexpr int32_t kVocabulary = 512;

  explicit ToyModel(uint64_t seed);

  const client::CacheGeometry& geometry() const { return geometry_; }

  // [tokens, hidden]: the residual stream of tokens at positions start, start + 1, ...
  std::vector<float> Embed(std::span<const int32_t> tokens, int64_t start) const;

  struct Projections {
    std::vector<float> q;  // [tokens, num_query_heads, head_dim]
    std::vector<float> k;  // [tokens, num_kv_heads, head_dim]
    std::vector<float> v;  // [tokens, num_kv_heads, head_dim]
  };
  Projections Project(int32_t layer, std::span<const float> hidden) const;

  // Adds the layer's attention output [tokens, num_query_heads, head_dim] to the residual stream.
  void AddAttention(int32_t layer, std::span<const float> attention, std::span<float> hidden) const;

  // The most likely token after the last row of `hidden`.
  int32_t NextToken(std::span<const float> hidden) const;

 private:
  // out[i] = sign[i] * in[source[i]]
  struct Mixing {
    std::vector<uint16_t> source;
    std::vector<float> sign;
  };
  struct Layer {
    Mixing q, k, v, out;
  };

  client::CacheGeometry geometry_;
  int64_t hidden_size_;
  std::vector<Layer> layers_;
  Mixing head_;  // before the embedding is compared with: else a token would predict itself
  std::vector<float> embedding_;  // [vocabulary, hidden]
};

}  // namespace attnd::cli
