// SPDX-License-Identifier: Apache-2.0
//
// What the daemon should answer: keys and values of every (sequence, layer) in plain vectors, and
// the fp64 reference over them.
//
//   ReferenceModel model;
//   model.Apply(batch);                       // the writes, in order
//   ExpectMatches(model, batch, reply.response);
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "kernels/cpu/attention_reference.h"
#include "tests/integration/test_client.h"

namespace attnd {

// [rows, heads, dim], dense.
inline HeadsView<const void> DenseView(const std::vector<float>& values, int64_t heads,
                                       int64_t dim) {
  return {.data = values.data(), .token_stride_elems = heads * dim, .head_stride_elems = dim};
}

struct DenseProblem {
  int64_t query_heads, kv_heads, dim_k, dim_v;
  int64_t rows, kv_len, start;
  ScoreOptions options;
};

// out [rows, query_heads, dim_v], lse [rows, query_heads].
inline void DenseReference(const DenseProblem& p, const std::vector<float>& q,
                           const std::vector<float>& k, const std::vector<float>& v,
                           std::vector<double>& out, std::vector<double>& lse) {
  AttentionParams params;
  params.key.head_dim_k = static_cast<int32_t>(p.dim_k);
  params.key.head_dim_v = static_cast<int32_t>(p.dim_v);
  params.num_query_heads = static_cast<int32_t>(p.query_heads);
  params.num_kv_heads = static_cast<int32_t>(p.kv_heads);
  const uint64_t offsets[] = {0};
  AttentionItem item;
  item.query_len = p.rows;
  item.start_position = p.start;
  item.kv_len = p.kv_len;
  item.q = DenseView(q, p.query_heads, p.dim_k);
  item.kv = {.k = reinterpret_cast<std::byte*>(const_cast<float*>(k.data())),
             .v = reinterpret_cast<std::byte*>(const_cast<float*>(v.data())),
             .page_offsets = offsets,
             .page_size_tokens = p.kv_len > 0 ? p.kv_len : 1,
             .k_head_stride_elems = p.dim_k,
             .k_token_stride_elems = p.kv_heads * p.dim_k,
             .v_head_stride_elems = p.dim_v,
             .v_token_stride_elems = p.kv_heads * p.dim_v};
  item.options = p.options;
  if (item.options.softmax_scale == 0) {
    item.options.softmax_scale = 1.0f / std::sqrt(static_cast<float>(p.dim_k));
  }
  out.assign(static_cast<size_t>(p.rows * p.query_heads * p.dim_v), 0);
  lse.assign(static_cast<size_t>(p.rows * p.query_heads), 0);
  ReferenceAttention(params, item, out.data(), lse.data());
}

// Relative L2 error at most 1e-6, the bar of fp32.
inline void ExpectClose(const std::vector<float>& ours, const std::vector<double>& reference,
                        const std::string& what) {
  ASSERT_EQ(ours.size(), reference.size()) << what;
  double error = 0, norm = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    error += std::pow(static_cast<double>(ours[i]) - reference[i], 2);
    norm += std::pow(reference[i], 2);
  }
  EXPECT_LE(std::sqrt(error), 1e-6 * std::sqrt(norm)) << what;
}

class ReferenceModel {
 public:
  using G = TestGeometry;

  void Apply(Batch& batch) {
    for (int i = 0; i < batch.request().items_size(); ++i) {
      const v1::AttendItem& item = batch.request().items(i);
      if (!item.has_k()) continue;
      Layer& layer = layers_[Key(item)];
      const Batch::Tensors& tensors = batch.tensors(static_cast<size_t>(i));
      const size_t start = static_cast<size_t>(item.start_position());
      layer.k.resize(start * G::kKvHeads * G::kDimK);
      layer.v.resize(start * G::kKvHeads * G::kDimV);
      layer.k.insert(layer.k.end(), tensors.k.begin(), tensors.k.end());
      layer.v.insert(layer.v.end(), tensors.v.begin(), tensors.v.end());
    }
  }

  void Fork(const v1::Id& parent, const v1::Id& fork) {
    for (int layer = 0; layer < G::kLayers; ++layer) {
      const auto found = layers_.find({parent.SerializeAsString(), layer});
      if (found != layers_.end()) layers_[{fork.SerializeAsString(), layer}] = found->second;
    }
  }

  // Out of every item that attends, and its LSE where it came.
  void ExpectMatches(Batch& batch, const v1::AttendResponse& response) {
    ASSERT_EQ(response.results_size(), batch.request().items_size());
    for (int i = 0; i < response.results_size(); ++i) {
      const v1::AttendItem& item = batch.request().items(i);
      const v1::ItemResult& result = response.results(i);
      const std::string what = "item " + std::to_string(i);
      ASSERT_EQ(result.status().code(), 0) << what << ": " << result.status().message();
      if (!item.has_q()) {
        EXPECT_FALSE(result.has_out()) << what;
        continue;
      }
      const int64_t rows = item.q().shape(0);
      const Layer& layer = layers_[Key(item)];
      DenseProblem problem{.query_heads = G::kQueryHeads,
                           .kv_heads = G::kKvHeads,
                           .dim_k = G::kDimK,
                           .dim_v = G::kDimV,
                           .rows = rows,
                           .kv_len = item.start_position() + rows,
                           .start = item.start_position(),
                           .options = {}};
      if (item.has_kv_length()) problem.kv_len = item.kv_length();
      problem.options.causal = item.options().causal();
      if (item.options().has_window_left()) {
        problem.options.window_left = item.options().window_left();
      }
      std::vector<double> out, lse;
      DenseReference(problem, batch.tensors(static_cast<size_t>(i)).q, layer.k, layer.v, out, lse);
      ExpectClose(FloatsOf(result.out(), response.tensor_data()), out, what + " out");
      if (!item.options().return_lse()) continue;
      // Ours is [heads, rows], the reference's [rows, heads].
      std::vector<double> by_head;
      for (size_t h = 0; h < G::kQueryHeads; ++h) {
        for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
          by_head.push_back(lse[r * G::kQueryHeads + h]);
        }
      }
      ExpectClose(FloatsOf(result.lse(), response.tensor_data()), by_head, what + " lse");
    }
  }

 private:
  struct Layer {
    std::vector<float> k, v;  // [tokens, heads, dim]
  };
  static std::pair<std::string, int> Key(const v1::AttendItem& item) {
    return {item.sequence().SerializeAsString(), item.layer()};
  }

  std::map<std::pair<std::string, int>, Layer> layers_;
};

}  // namespace attnd
