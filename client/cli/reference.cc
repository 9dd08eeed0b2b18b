// SPDX-License-Identifier: Apache-2.0
#include "client/cli/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention/params.h"
#include "kernels/base/dtype.h"
#include "kernels/cpu/attention_reference.h"

namespace attnd::cli {
namespace {

ScoreOptions ToScoreOptions(const client::AttentionOptions& options, int32_t head_dim_k) {
  return {.softmax_scale =
              options.softmax_scale.value_or(1.0f / std::sqrt(static_cast<float>(head_dim_k))),
          .softcap = options.softcap,
          .causal = options.causal,
          .window_left = options.window_left.value_or(kNoWindow),
          .window_right = options.window_right.value_or(kNoWindow),
          .alibi_slopes = options.alibi_slopes.empty() ? nullptr : options.alibi_slopes.data(),
          .sinks = options.sinks.empty() ? nullptr : options.sinks.data(),
          .tree_mask = options.tree_mask.empty() ? nullptr : options.tree_mask.data(),
          .dropout = options.dropout};
}

// Converts into the array at `begin` elements; the array grows or is cut to end there.
void Store(const client::ConstTensor& tensor, int64_t begin, DType dtype,
           std::vector<std::byte>& bytes) {
  bytes.resize(static_cast<size_t>(begin + tensor.num_elems) * SizeOf(dtype));
  for (int64_t i = 0; i < tensor.num_elems; ++i) {
    StoreFromFloat(dtype, bytes.data(), begin + i, LoadAsFloat(tensor.dtype, tensor.data, i));
  }
}

}  // namespace

HostTensor::HostTensor(DType dtype, int64_t num_elems)
    : dtype_(dtype),
      num_elems_(num_elems),
      bytes_(static_cast<size_t>(num_elems) * SizeOf(dtype)) {}

HostTensor HostTensor::Normal(DType dtype, int64_t num_elems, std::mt19937_64& random) {
  HostTensor tensor(dtype, num_elems);
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < num_elems; ++i) StoreFromFloat(dtype, tensor.data(), i, normal(random));
  return tensor;
}

client::ConstTensor HostTensor::view(int64_t first, int64_t count) const {
  return {dtype_, bytes_.data() + static_cast<size_t>(first) * SizeOf(dtype_), count};
}

void ErrorStats::Add(double got, double want) {
  ++elems;
  if (std::isinf(want) && got == want) return;  // the LSE of a row that sees nothing
  if (!std::isfinite(got) || !std::isfinite(want)) {
    ++not_finite;
    return;
  }
  squared_difference += (got - want) * (got - want);
  squared_reference += want * want;
  max_abs = std::max(max_abs, std::abs(got - want));
}

void ErrorStats::Merge(const ErrorStats& other) {
  squared_difference += other.squared_difference;
  squared_reference += other.squared_reference;
  max_abs = std::max(max_abs, other.max_abs);
  elems += other.elems;
  not_finite += other.not_finite;
}

double ErrorStats::relative_l2() const {
  if (not_finite > 0) return std::numeric_limits<double>::infinity();
  if (squared_difference == 0.0) return 0.0;
  return std::sqrt(squared_difference / squared_reference);
}

double ErrorBound(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return 1e-6;
    case DType::kF16:
      return 1.1 * 4e-4;
    case DType::kBF16:
      return 1.1 * 3e-3;
  }
  return 0.0;
}

HostKv::HostKv(const client::CacheGeometry& geometry) : geometry_(geometry) {}

void HostKv::Write(int64_t start, const client::ConstTensor& k, const client::ConstTensor& v) {
  const int64_t k_row = geometry_.num_kv_heads * geometry_.head_dim_k;
  const int64_t v_row = geometry_.num_kv_heads * geometry_.value_dim();
  Store(k, start * k_row, geometry_.kv_dtype, k_);
  Store(v, start * v_row, geometry_.kv_dtype, v_);
  length_ = start + k.num_elems / k_row;
}

ReferenceOutput HostKv::Attend(const ReferenceQuery& query) const {
  const int64_t heads = geometry_.num_query_heads, dim_k = geometry_.head_dim_k,
                dim_v = geometry_.value_dim();
  const int64_t all_rows = query.q.num_elems / (heads * dim_k);
  const int64_t rows = query.num_rows < 0 ? all_rows - query.first_row : query.num_rows;
  const int64_t kv_len = query.kv_length < 0 ? length_ : query.kv_length;
  const uint64_t offset = 0;
  const auto* q = static_cast<const std::byte*>(query.q.data) +
                  static_cast<size_t>(query.first_row * heads * dim_k) * SizeOf(query.q.dtype);
  // The reference writes nothing through the pointers of `kv` when it attends.
  const AttentionItem item{
      .query_len = rows,
      .start_position = query.start_position + query.first_row,
      .kv_len = kv_len,
      .q = {.data = q, .token_stride_elems = heads * dim_k, .head_stride_elems = dim_k},
      .new_k = {},
      .new_v = {},
      .kv = {.k = const_cast<std::byte*>(k_.data()),
             .v = const_cast<std::byte*>(v_.data()),
             .page_offsets = &offset,
             .page_size_tokens = std::max<int64_t>(kv_len, 1),
             .k_head_stride_elems = dim_k,
             .k_token_stride_elems = geometry_.num_kv_heads * dim_k,
             .v_head_stride_elems = dim_v,
             .v_token_stride_elems = geometry_.num_kv_heads * dim_v},
      .out = {},
      .lse = {},
      .options = ToScoreOptions(query.options, geometry_.head_dim_k)};
  const AttentionParams params{.key = {.q_dtype = query.q.dtype,
                                       .kv_dtype = geometry_.kv_dtype,
                                       .head_dim_k = geometry_.head_dim_k,
                                       .head_dim_v = geometry_.value_dim(),
                                       .features = {}},
                               .num_query_heads = geometry_.num_query_heads,
                               .num_kv_heads = geometry_.num_kv_heads,
                               .items = {&item, 1}};
  ReferenceOutput result{.out = std::vector<double>(static_cast<size_t>(rows * heads * dim_v)),
                         .lse = std::vector<double>(static_cast<size_t>(rows * heads))};
  ReferenceAttention(params, item, result.out.data(), result.lse.data());
  return result;
}

void HostKv::Compare(const ReferenceQuery& query, const client::TensorView& out,
                     const client::TensorView& lse, ErrorStats& out_errors,
                     ErrorStats& lse_errors) const {
  const ReferenceOutput want = Attend(query);
  const int64_t heads = geometry_.num_query_heads;
  const int64_t skipped = query.first_row * heads * geometry_.value_dim();
  for (size_t i = 0; i < want.out.size(); ++i) {
    out_errors.Add(out.At(skipped + static_cast<int64_t>(i)), want.out[i]);
  }
  if (!lse.present()) return;
  const int64_t all_rows = lse.shape.back();
  for (size_t i = 0; i < want.lse.size(); ++i) {
    const auto row = static_cast<int64_t>(i) / heads, head = static_cast<int64_t>(i) % heads;
    lse_errors.Add(lse.At(head * all_rows + query.first_row + row), want.lse[i]);
  }
}

}  // namespace attnd::cli
