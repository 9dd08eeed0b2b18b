// SPDX-License-Identifier: Apache-2.0
//
// A decoder-only transformer in plain loops, for the example server: everything of a layer but the
// attention itself, which is the caller's.
//
// Its parts are those of Llama (Touvron et al., "LLaMA", 2023): RMSNorm before each half of a layer
// (Zhang and Sennrich, 2019), rotary positions (Su et al., 2021), fewer KV heads than query heads
// (Ainslie et al., 2023), a SwiGLU feed-forward (Shazeer, 2020). The weights are drawn from a seed:
// what it says means nothing, but a wrong number anywhere changes it. Thread-safe once constructed.
//
//   TinyLlama model(/*seed=*/1);
//   std::vector<float> hidden = model.Embed(tokens);
//   for (int layer = 0; layer < model.config().num_layers; ++layer) {
//     TinyLlama::Qkv qkv = model.Project(layer, hidden, positions);
//     model.Finish(layer, AttentionOf(qkv), hidden);
//   }
//   int32_t next = model.Greedy(last_row_of_hidden);
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace attnd::client {

class TinyLlama {
 public:
  struct Config {
    int num_layers = 4;
    int num_query_heads = 4;
    int num_kv_heads = 2;
    int head_dim = 32;
    int feed_forward = 256;
    int vocabulary = 512;

    int hidden() const { return num_query_heads * head_dim; }
  };

  explicit TinyLlama(uint64_t seed) : TinyLlama(seed, Config()) {}
  TinyLlama(uint64_t seed, const Config& config);

  const Config& config() const { return config_; }

  // [rows, hidden]: one row a token. Tokens outside the vocabulary are taken modulo its size.
  std::vector<float> Embed(std::span<const int32_t> tokens) const;

  struct Qkv {
    std::vector<float> q;  // [rows, num_query_heads, head_dim]
    std::vector<float> k;  // [rows, num_kv_heads, head_dim]
    std::vector<float> v;  // [rows, num_kv_heads, head_dim]
  };
  // The first half of a layer up to its attention. `positions` has each row's place in its own
  // sequence, to which its q and k are rotated.
  Qkv Project(int layer, std::span<const float> hidden, std::span<const int64_t> positions) const;

  // The rest of the layer: adds the projection of `attention` [rows, num_query_heads, head_dim] to
  // `hidden`, then the feed-forward.
  void Finish(int layer, std::span<const float> attention, std::span<float> hidden) const;

  // The most likely token after one row of `hidden`.
  int32_t Greedy(std::span<const float> row) const;

 private:
  struct Layer {
    std::vector<float> q, k, v, out;    // [in, out] each
    std::vector<float> gate, up, down;  // likewise
  };

  Config config_;
  std::vector<Layer> layers_;
  std::vector<float> embedding_;  // [vocabulary, hidden]
  std::vector<float> head_;       // [hidden, vocabulary]
};

}  // namespace attnd::client
