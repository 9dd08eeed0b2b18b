// SPDX-License-Identifier: Apache-2.0
//
// Philox4x32-10, the counter-based random generator of attention dropout.
//
// A draw depends on its coordinates alone, so one seed gives one dropout mask on every backend, for
// every tile size and batch shape. Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers:
// as easy as 1, 2, 3", SC 2011. Pure functions, safe from any thread.
//
//   bool keep = DropoutKeeps(dropout, /*head=*/3, /*query_position=*/17, /*key_position=*/5);
#pragma once

#include <array>
#include <cstdint>

namespace attnd {

// Four independent 32-bit draws for one (key, counter).
constexpr std::array<uint32_t, 4> Philox4x32(uint64_t key, std::array<uint32_t, 4> counter) {
  constexpr uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
  constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  uint32_t key0 = static_cast<uint32_t>(key), key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(kMultiplier0) * counter[0];
    const uint64_t product1 = static_cast<uint64_t>(kMultiplier1) * counter[2];
    counter = {
        static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(product1),
        static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(product0)};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return counter;
}

// The dropout of one attention item. Each probability is kept with 1 - probability and then scaled
// by 1 / (1 - probability); the softmax denominator and the LSE are those without dropout.
struct Dropout {
  float probability = 0.0f;  // in [0, 1); 0 is off
  uint64_t seed = 0;
  uint32_t subsequence = 0;  // tells items of one seed apart: the index in a dense batch

  constexpr bool enabled() const { return probability > 0.0f; }
  constexpr float scale() const { return 1.0f / (1.0f - probability); }
  // A draw below the threshold is dropped.
  constexpr uint32_t threshold() const {
    return static_cast<uint32_t>(static_cast<double>(probability) * 4294967296.0);
  }
};

// The draws for the four keys at positions 4 * key_block .. 4 * key_block + 3 of one query.
// Positions are absolute in the sequence and below 2^32.
constexpr std::array<uint32_t, 4> DropoutDraws(const Dropout& dropout, uint32_t query_head,
                                               uint32_t query_position, uint32_t key_block) {
  return Philox4x32(dropout.seed, {key_block, query_position, query_head, dropout.subsequence});
}

constexpr bool DropoutKeeps(const Dropout& dropout, uint32_t query_head, uint32_t query_position,
                            uint32_t key_position) {
  return DropoutDraws(dropout, query_head, query_position, key_position / 4)[key_position % 4] >=
         dropout.threshold();
}

}  // namespace attnd
