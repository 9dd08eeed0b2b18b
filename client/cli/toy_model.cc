// SPDX-License-Identifier: Apache-2.0
#include "client/cli/toy_model.h"

#include <cmath>
#include <random>

namespace attnd::cli {
namespace {

// x / sqrt(mean(x^2)), as RMSNorm without weights.
std::vector<float> Normalized(std::span<const float> x) {
  double sum = 0;
  for (const float value : x) sum += static_cast<double>(value) * value;
  const auto scale =
      static_cast<float>(1.0 / std::sqrt(sum / static_cast<double>(x.size()) + 1e-6));
  std::vector<float> result(x.begin(), x.end());
  for (float& value : result) value *= scale;
  return result;
}

}  // namespace

ToyModel::ToyModel(uint64_t seed)
    : geometry_{.num_layers = 30,
                .num_query_heads = 9,
                .num_kv_heads = 3,
                .head_dim_k = 64,
                .head_dim_v = 64,
                .kv_dtype = DType::kF32,
                .page_size_tokens = 16},
      hidden_size_(geometry_.num_query_heads * geometry_.head_dim_k) {
  std::mt19937_64 random(seed);
  const auto draw_mixing = [&](int64_t size) {
    Mixing mixing;
    for (int64_t i = 0; i < size; ++i) {
      mixing.source.push_back(
          static_cast<uint16_t>(random() % static_cast<uint64_t>(hidden_size_)));
      mixing.sign.push_back((random() & 1) != 0 ? 1.0f : -1.0f);
    }
    return mixing;
  };
  const int64_t kv_size = geometry_.num_kv_heads * geometry_.head_dim_k;
  for (int32_t layer = 0; layer < geometry_.num_layers; ++layer) {
    layers_.push_back({.q = draw_mixing(hidden_size_),
                       .k = draw_mixing(kv_size),
                       .v = draw_mixing(kv_size),
                       .out = draw_mixing(hidden_size_)});
  }
  head_ = draw_mixing(hidden_size_);
  std::normal_distribution<float> normal;
  embedding_.resize(static_cast<size_t>(kVocabulary * hidden_size_));
  for (float& value : embedding_) value = normal(random);
}

std::vector<float> ToyModel::Embed(std::span<const int32_t> tokens, int64_t start) const {
  std::vector<float> hidden;
  for (size_t t = 0; t < tokens.size(); ++t) {
    const float* row = &embedding_[static_cast<size_t>(tokens[t] * hidden_size_)];
    const auto position = static_cast<double>(start + static_cast<int64_t>(t));
    for (int64_t i = 0; i < hidden_size_; ++i) {
      // Sinusoids of falling frequency, so that the same token differs from place to place.
      const int64_t pair = i - i % 2;
      const double angle =
          position / std::pow(1e4, static_cast<double>(pair) / static_cast<double>(hidden_size_));
      hidden.push_back(row[i] + static_cast<float>(i % 2 == 0 ? std::sin(angle) : std::cos(angle)));
    }
  }
  return hidden;
}

ToyModel::Projections ToyModel::Project(int32_t layer, std::span<const float> hidden) const {
  const Layer& weights = layers_[static_cast<size_t>(layer)];
  const auto width = static_cast<size_t>(hidden_size_);
  Projections result;
  const auto append = [](const Mixing& mixing, std::span<const float> x, std::vector<float>& out) {
    for (size_t i = 0; i < mixing.source.size(); ++i) {
      out.push_back(mixing.sign[i] * x[mixing.source[i]]);
    }
  };
  for (size_t row = 0; row < hidden.size() / width; ++row) {
    const std::vector<float> x = Normalized(hidden.subspan(row * width, width));
    append(weights.q, x, result.q);
    append(weights.k, x, result.k);
    append(weights.v, x, result.v);
  }
  return result;
}

void ToyModel::AddAttention(int32_t layer, std::span<const float> attention,
                            std::span<float> hidden) const {
  const Mixing& mixing = layers_[static_cast<size_t>(layer)].out;
  const auto width = static_cast<size_t>(hidden_size_);
  for (size_t row = 0; row < hidden.size() / width; ++row) {
    for (size_t i = 0; i < width; ++i) {
      hidden[row * width + i] += mixing.sign[i] * attention[row * width + mixing.source[i]];
    }
  }
}

int32_t ToyModel::NextToken(std::span<const float> hidden) const {
  const auto width = static_cast<size_t>(hidden_size_);
  const std::vector<float> x = Normalized(hidden.last(width));
  int32_t best = 0;
  double best_score = -1e300;
  for (int32_t token = 0; token < kVocabulary; ++token) {
    const float* row = &embedding_[static_cast<size_t>(token) * width];
    double score = 0;
    for (size_t i = 0; i < width; ++i) {
      score += static_cast<double>(head_.sign[i] * x[head_.source[i]]) * row[i];
    }
    if (score > best_score) {
      best_score = score;
      best = token;
    }
  }
  return best;
}

}  // namespace attnd::cli
