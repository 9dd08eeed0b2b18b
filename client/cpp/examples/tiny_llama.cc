// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/examples/tiny_llama.h"

#include <algorithm>
#include <cmath>
#include <random>

namespace attnd::client {
namespace {

// x [rows, in] times weights [in, out].
std::vector<float> MatMul(std::span<const float> x, const std::vector<float>& weights, size_t in) {
  const size_t rows = x.size() / in, out = weights.size() / in;
  std::vector<float> result(rows * out);
  for (size_t row = 0; row < rows; ++row) {
    for (size_t i = 0; i < in; ++i) {
      const float factor = x[row * in + i];
      for (size_t j = 0; j < out; ++j) result[row * out + j] += factor * weights[i * out + j];
    }
  }
  return result;
}

// Each row divided by the root of its mean square.
std::vector<float> RmsNorm(std::span<const float> x, size_t width) {
  std::vector<float> result(x.begin(), x.end());
  for (size_t begin = 0; begin < x.size(); begin += width) {
    float sum = 0;
    for (size_t i = 0; i < width; ++i) sum += x[begin + i] * x[begin + i];
    const float scale = 1.0f / std::sqrt(sum / static_cast<float>(width) + 1e-5f);
    for (size_t i = 0; i < width; ++i) result[begin + i] *= scale;
  }
  return result;
}

// Turns the pairs (i, i + head_dim / 2) of every head by position * 10000^(-2i / head_dim).
void Rotate(std::vector<float>& x, std::span<const int64_t> positions, size_t head_dim) {
  const size_t width = x.size() / positions.size(), half = head_dim / 2;
  for (size_t row = 0; row < positions.size(); ++row) {
    for (size_t i = 0; i < half; ++i) {
      const double frequency = std::pow(1e4, -static_cast<double>(i) / static_cast<double>(half));
      const double angle = static_cast<double>(positions[row]) * frequency;
      const auto cosine = static_cast<float>(std::cos(angle));
      const auto sine = static_cast<float>(std::sin(angle));
      for (size_t head = 0; head < width; head += head_dim) {
        float& a = x[row * width + head + i];
        float& b = x[row * width + head + half + i];
        const float first = a * cosine - b * sine;
        b = b * cosine + a * sine;
        a = first;
      }
    }
  }
}

}  // namespace

TinyLlama::TinyLlama(uint64_t seed, const Config& config) : config_(config) {
  std::mt19937_64 random(seed);
  // Standard deviation 1 / sqrt(in): what goes through keeps its size.
  const auto draw = [&random](int in, int out, float scale = 1.0f) {
    std::normal_distribution<float> normal(0.0f, scale / std::sqrt(static_cast<float>(in)));
    std::vector<float> weights(static_cast<size_t>(in) * static_cast<size_t>(out));
    for (float& weight : weights) weight = normal(random);
    return weights;
  };
  const int hidden = config.hidden(), kv = config.num_kv_heads * config.head_dim;
  for (int layer = 0; layer < config.num_layers; ++layer) {
    // Twice the size for q and k: sharper attention, in which every key matters.
    layers_.push_back({.q = draw(hidden, hidden, 2.0f),
                       .k = draw(hidden, kv, 2.0f),
                       .v = draw(hidden, kv),
                       .out = draw(hidden, hidden),
                       .gate = draw(hidden, config.feed_forward),
                       .up = draw(hidden, config.feed_forward),
                       .down = draw(config.feed_forward, hidden)});
  }
  embedding_ = draw(1, config.vocabulary * hidden);
  head_ = draw(hidden, config.vocabulary);
}

std::vector<float> TinyLlama::Embed(std::span<const int32_t> tokens) const {
  const auto width = static_cast<size_t>(config_.hidden());
  std::vector<float> hidden;
  for (const int32_t token : tokens) {
    const auto row = static_cast<uint32_t>(token) % static_cast<uint32_t>(config_.vocabulary);
    const float* begin = &embedding_[row * width];
    hidden.insert(hidden.end(), begin, begin + width);
  }
  return hidden;
}

TinyLlama::Qkv TinyLlama::Project(int layer, std::span<const float> hidden,
                                  std::span<const int64_t> positions) const {
  const Layer& weights = layers_[static_cast<size_t>(layer)];
  const auto width = static_cast<size_t>(config_.hidden());
  const std::vector<float> x = RmsNorm(hidden, width);
  Qkv result{.q = MatMul(x, weights.q, width),
             .k = MatMul(x, weights.k, width),
             .v = MatMul(x, weights.v, width)};
  Rotate(result.q, positions, static_cast<size_t>(config_.head_dim));
  Rotate(result.k, positions, static_cast<size_t>(config_.head_dim));
  return result;
}

void TinyLlama::Finish(int layer, std::span<const float> attention, std::span<float> hidden) const {
  const Layer& weights = layers_[static_cast<size_t>(layer)];
  const auto width = static_cast<size_t>(config_.hidden());
  const auto add = [&hidden](const std::vector<float>& x) {
    for (size_t i = 0; i < x.size(); ++i) hidden[i] += x[i];
  };
  add(MatMul(attention, weights.out, width));
  const std::vector<float> x = RmsNorm(hidden, width);
  std::vector<float> gate = MatMul(x, weights.gate, width);
  const std::vector<float> up = MatMul(x, weights.up, width);
  for (size_t i = 0; i < gate.size(); ++i) {
    gate[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];  // SiLU(gate) * up
  }
  add(MatMul(gate, weights.down, static_cast<size_t>(config_.feed_forward)));
}

int32_t TinyLlama::Greedy(std::span<const float> row) const {
  const auto width = static_cast<size_t>(config_.hidden());
  const std::vector<float> logits = MatMul(RmsNorm(row, width), head_, width);
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace attnd::client
