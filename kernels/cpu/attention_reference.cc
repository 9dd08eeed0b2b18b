// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/attention_reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/attention/kv_address.h"
#include "kernels/attention/visibility.h"
#include "kernels/base/dtype.h"
#include "kernels/base/philox.h"

namespace attnd {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// One query of one head, and all that its row of the output depends on.
struct Row {
  const AttentionParams& params;
  const AttentionItem& item;
  int64_t query;    // row of q, 0 <= query < query_len
  int64_t head;     // query head
  int64_t kv_head;  // the KV head that serves it

  int64_t position() const { return item.start_position + query; }
};

// Several query heads share a KV head: heads 0 .. group-1 the first, and so on.
Row MakeRow(const AttentionParams& params, const AttentionItem& item, int64_t query, int64_t head) {
  const int64_t group = params.num_query_heads / params.num_kv_heads;
  return Row{params, item, query, head, head / group};
}

bool Sees(const Row& row, int64_t key) {
  return VisibleRange(row.item.options, row.position(), row.item.kv_len).Contains(key) &&
         TreeMaskAllows(row.item, row.query, key);
}

// Scaled, then capped, then biased.
double Score(const Row& row, int64_t key) {
  const KernelKey& kernel = row.params.key;
  const ScoreOptions& options = row.item.options;
  const std::byte* k = KeyAddress(row.item.kv, kernel.kv_dtype, row.kv_head, key);
  const int64_t q =
      row.query * row.item.q.token_stride_elems + row.head * row.item.q.head_stride_elems;

  double dot = 0.0;
  for (int64_t d = 0; d < kernel.head_dim_k; ++d) {
    dot += static_cast<double>(LoadAsFloat(kernel.q_dtype, row.item.q.data, q + d)) *
           static_cast<double>(LoadAsFloat(kernel.kv_dtype, k, d));
  }
  double score = static_cast<double>(options.softmax_scale) * dot;
  if (options.softcap > 0.0f) {
    const double cap = options.softcap;
    score = cap * std::tanh(score / cap);
  }
  if (options.alibi_slopes != nullptr) {
    const double distance = std::abs(static_cast<double>(row.position() - key));
    score -= static_cast<double>(options.alibi_slopes[row.head]) * distance;
  }
  return score;
}

// What dropout makes of one weight: 0, or the weight divided by the probability of keeping it.
double DropoutFactor(const Row& row, int64_t key) {
  const Dropout& dropout = row.item.options.dropout;
  if (!dropout.enabled()) return 1.0;
  const bool keeps =
      DropoutKeeps(dropout, static_cast<uint32_t>(row.head), static_cast<uint32_t>(row.position()),
                   static_cast<uint32_t>(key));
  return keeps ? 1.0 / (1.0 - static_cast<double>(dropout.probability)) : 0.0;
}

// out[d] = sum_j softmax(score)[j] * dropout[j] * v[j][d] over the keys that the row sees. The
// softmax is shifted by its largest score, so that it neither overflows nor vanishes. A NaN or an
// infinity takes its course through this arithmetic, and only through the keys that are seen.
void AttendRow(const Row& row, std::vector<double>& scores, double* out, double* lse) {
  const KernelKey& kernel = row.params.key;
  const ScoreOptions& options = row.item.options;

  double largest = -kInfinity;
  if (options.sinks != nullptr) largest = options.sinks[row.head];
  for (int64_t j = 0; j < row.item.kv_len; ++j) {
    if (!Sees(row, j)) continue;
    scores[j] = Score(row, j);
    largest = std::max(largest, scores[j]);  // keeps `largest` where the score is NaN
  }
  const double shift = largest == -kInfinity ? 0.0 : largest;

  // A sink is a key whose value is zero: it takes its share of the softmax and gives nothing.
  double sum = 0.0;
  if (options.sinks != nullptr) sum += std::exp(options.sinks[row.head] - shift);
  std::fill_n(out, kernel.head_dim_v, 0.0);
  for (int64_t j = 0; j < row.item.kv_len; ++j) {
    if (!Sees(row, j)) continue;
    const double weight = std::exp(scores[j] - shift);
    sum += weight;  // the sum, and with it the LSE, knows no dropout
    const std::byte* v = ValueAddress(row.item.kv, kernel.kv_dtype, row.kv_head, j);
    const double kept = weight * DropoutFactor(row, j);
    for (int64_t d = 0; d < kernel.head_dim_v; ++d) {
      out[d] += kept * static_cast<double>(LoadAsFloat(kernel.kv_dtype, v, d));
    }
  }

  // Nothing to attend to, no key seen or every score minus infinity: zeros, and an LSE of log(0).
  if (sum == 0.0) {
    std::fill_n(out, kernel.head_dim_v, 0.0);
    if (lse != nullptr) *lse = -kInfinity;
    return;
  }
  for (int64_t d = 0; d < kernel.head_dim_v; ++d) out[d] /= sum;
  if (lse != nullptr) *lse = shift + std::log(sum);
}

}  // namespace

void ReferenceAppend(const AttentionParams& params, const AttentionItem& item) {
  const KernelKey& key = params.key;
  if (item.new_k.data == nullptr) return;
  for (int64_t i = 0; i < item.query_len; ++i) {
    for (int64_t h = 0; h < params.num_kv_heads; ++h) {
      const int64_t token = item.start_position + i;
      std::byte* k = KeyAddress(item.kv, key.kv_dtype, h, token);
      std::byte* v = ValueAddress(item.kv, key.kv_dtype, h, token);
      const int64_t new_k = i * item.new_k.token_stride_elems + h * item.new_k.head_stride_elems;
      const int64_t new_v = i * item.new_v.token_stride_elems + h * item.new_v.head_stride_elems;
      for (int64_t d = 0; d < key.head_dim_k; ++d) {
        StoreFromFloat(key.kv_dtype, k, d, LoadAsFloat(key.q_dtype, item.new_k.data, new_k + d));
      }
      for (int64_t d = 0; d < key.head_dim_v; ++d) {
        StoreFromFloat(key.kv_dtype, v, d, LoadAsFloat(key.q_dtype, item.new_v.data, new_v + d));
      }
    }
  }
}

void ReferenceAttention(const AttentionParams& params, const AttentionItem& item, double* out,
                        double* lse) {
  if (item.q.data == nullptr) return;
  std::vector<double> scores(static_cast<size_t>(item.kv_len));
  for (int64_t i = 0; i < item.query_len; ++i) {
    for (int64_t h = 0; h < params.num_query_heads; ++h) {
      const int64_t row = i * params.num_query_heads + h;
      AttendRow(MakeRow(params, item, i, h), scores, out + row * params.key.head_dim_v,
                lse == nullptr ? nullptr : lse + row);
    }
  }
}

}  // namespace attnd
