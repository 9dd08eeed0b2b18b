// SPDX-License-Identifier: Apache-2.0
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/attention/check_params.h"
#include "kernels/base/status_macros.h"
#include "server/rpc/validate.h"

namespace attnd {
namespace {

// As in a cache's geometry; what a backend supports within them is its own to say.
constexpr int64_t kMaxHeads = 1024;
constexpr int64_t kMaxHeadDim = 1 << 16;

// The sizes of the call. Dense: rows of sequence b start at b * rows_per_sequence. Ragged: at
// cu_seqlens[b].
struct FlashShape {
  bool ragged = false;
  int64_t batch = 0;
  int64_t rows_q = 0, rows_k = 0;  // of one sequence where dense, of all where ragged
  int64_t query_heads = 0, kv_heads = 0, dim_k = 0, dim_v = 0;
  DType dtype = DType::kF32;
};

absl::Status CheckRange(const FieldName& name, absl::string_view what, int64_t value,
                        int64_t most) {
  if (value >= 1 && value <= most) return absl::OkStatus();
  return InvalidField(name, absl::StrCat(what, " ", value, ", expected 1 to ", most));
}

absl::Status CheckCuSeqlens(const google::protobuf::RepeatedField<int64_t>& cu_seqlens,
                            absl::string_view field, int64_t total) {
  const FieldName name{-1, field};
  if (cu_seqlens.size() < 2) {
    return InvalidField(name, absl::StrCat(cu_seqlens.size(), " entries, expected batch + 1"));
  }
  if (cu_seqlens.Get(0) != 0) {
    return InvalidField(name, absl::StrCat("starts with ", cu_seqlens.Get(0), ", expected 0"));
  }
  for (int i = 1; i < cu_seqlens.size(); ++i) {
    if (cu_seqlens.Get(i) < cu_seqlens.Get(i - 1)) {
      return InvalidField(name, absl::StrCat("decreases from ", cu_seqlens.Get(i - 1), " to ",
                                             cu_seqlens.Get(i), " at entry ", i));
    }
  }
  const int64_t last = cu_seqlens.Get(cu_seqlens.size() - 1);
  if (last != total) {
    return InvalidField(
        name, absl::StrCat("ends with ", last, ", expected ", total, ", the rows of the tensor"));
  }
  return absl::OkStatus();
}

// Reads the sizes from the tensors; CheckTensor then holds each tensor to all of them.
absl::StatusOr<FlashShape> ReadShape(const v1::FlashAttentionRequest& request,
                                     const RequestLimits& limits) {
  for (const auto& [present, field] :
       {std::pair(request.has_q(), "q"), {request.has_k(), "k"}, {request.has_v(), "v"}}) {
    if (!present) return InvalidField({-1, field}, "is missing");
  }
  FlashShape shape;
  shape.ragged = request.cu_seqlens_q_size() > 0 || request.cu_seqlens_k_size() > 0;
  const int rank = shape.ragged ? 3 : 4;
  ATTND_ASSIGN_OR_RETURN(shape.dtype, CheckFloatDType(request.q(), {-1, "q"}));
  ATTND_ASSIGN_OR_RETURN(const int64_t leading_q,
                         CheckRows(request.q(), {-1, "q"}, rank,
                                   shape.ragged ? "total_q, num_query_heads, head_dim_k"
                                                : "batch, rows, num_query_heads, head_dim_k"));
  ATTND_ASSIGN_OR_RETURN(const int64_t leading_k,
                         CheckRows(request.k(), {-1, "k"}, rank,
                                   shape.ragged ? "total_k, num_kv_heads, head_dim_k"
                                                : "batch, rows, num_kv_heads, head_dim_k"));
  ATTND_RETURN_IF_ERROR(CheckRows(request.v(), {-1, "v"}, rank,
                                  shape.ragged ? "total_k, num_kv_heads, head_dim_v"
                                               : "batch, rows, num_kv_heads, head_dim_v")
                            .status());
  shape.query_heads = request.q().shape(rank - 2);
  shape.dim_k = request.q().shape(rank - 1);
  shape.kv_heads = request.k().shape(rank - 2);
  shape.dim_v = request.v().shape(rank - 1);
  ATTND_RETURN_IF_ERROR(CheckRange({-1, "q"}, "num_query_heads", shape.query_heads, kMaxHeads));
  ATTND_RETURN_IF_ERROR(CheckRange({-1, "k"}, "num_kv_heads", shape.kv_heads, kMaxHeads));
  ATTND_RETURN_IF_ERROR(CheckRange({-1, "q"}, "head_dim_k", shape.dim_k, kMaxHeadDim));
  ATTND_RETURN_IF_ERROR(CheckRange({-1, "v"}, "head_dim_v", shape.dim_v, kMaxHeadDim));
  if (shape.query_heads % shape.kv_heads != 0) {
    return InvalidField({-1, "q"},
                        absl::StrCat("num_query_heads ", shape.query_heads,
                                     " is not a multiple of num_kv_heads ", shape.kv_heads));
  }

  if (shape.ragged) {
    shape.rows_q = leading_q;
    shape.rows_k = leading_k;
    ATTND_RETURN_IF_ERROR(CheckCuSeqlens(request.cu_seqlens_q(), "cu_seqlens_q", leading_q));
    ATTND_RETURN_IF_ERROR(CheckCuSeqlens(request.cu_seqlens_k(), "cu_seqlens_k", leading_k));
    if (request.cu_seqlens_q_size() != request.cu_seqlens_k_size()) {
      return InvalidField({-1, "cu_seqlens_k"},
                          absl::StrCat(request.cu_seqlens_k_size(), " entries, cu_seqlens_q has ",
                                       request.cu_seqlens_q_size()));
    }
    shape.batch = request.cu_seqlens_q_size() - 1;
  } else {
    shape.batch = leading_q;
    shape.rows_q = request.q().shape(1);
    shape.rows_k = request.k().shape(1);
  }
  if (shape.batch > limits.max_items) {
    return absl::InvalidArgumentError(absl::StrCat("the batch has ", shape.batch,
                                                   " sequences, at most ", limits.max_items,
                                                   " are served in one request"));
  }
  return shape;
}

struct FlashTensors {
  TensorRange q, k, v;
};

absl::StatusOr<FlashTensors> CheckTensors(const v1::FlashAttentionRequest& request,
                                          const FlashShape& s, uint64_t tensor_bytes) {
  const v1::DType dtype = request.q().dtype();
  const auto expected = [&](int64_t rows, int64_t heads, int64_t dim, absl::string_view names) {
    ExpectedTensor tensor{dtype, {rows, heads, dim}, names};
    if (!s.ragged) tensor.shape.insert(tensor.shape.begin(), s.batch);
    return tensor;
  };
  FlashTensors tensors;
  ATTND_ASSIGN_OR_RETURN(
      tensors.q,
      CheckTensor(request.q(), {-1, "q"},
                  expected(s.rows_q, s.query_heads, s.dim_k, "the sizes of q"), tensor_bytes));
  ATTND_ASSIGN_OR_RETURN(tensors.k,
                         CheckTensor(request.k(), {-1, "k"},
                                     expected(s.rows_k, s.kv_heads, s.dim_k,
                                              s.ragged ? "total_k, num_kv_heads, head_dim_k"
                                                       : "batch, rows_k, num_kv_heads, head_dim_k"),
                                     tensor_bytes));
  ATTND_ASSIGN_OR_RETURN(tensors.v,
                         CheckTensor(request.v(), {-1, "v"},
                                     expected(s.rows_k, s.kv_heads, s.dim_v,
                                              s.ragged ? "total_k, num_kv_heads, head_dim_v"
                                                       : "batch, rows_k, num_kv_heads, head_dim_v"),
                                     tensor_bytes));
  return tensors;
}

absl::Status CheckLimits(const FlashShape& s, const RequestLimits& limits) {
  const int64_t sequences = s.ragged ? 1 : s.batch;
  // Both tensors lie in the message, so the product is far from overflowing.
  if (s.rows_q * sequences > limits.max_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("the call has ", s.rows_q * sequences,
                                                   " query tokens, at most ", limits.max_tokens,
                                                   " are served in one request"));
  }
  if (s.rows_k > kMaxSequenceTokens) {
    return InvalidField({-1, "k"}, absl::StrCat(s.rows_k, " rows, at most ", kMaxSequenceTokens));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PreparedBatch> ValidateFlashAttention(const v1::FlashAttentionRequest& request,
                                                     uint64_t tensor_bytes,
                                                     const ValidationContext& context) {
  ATTND_ASSIGN_OR_RETURN(const FlashShape s, ReadShape(request, context.limits));
  ATTND_ASSIGN_OR_RETURN(const FlashTensors tensors, CheckTensors(request, s, tensor_bytes));
  ATTND_RETURN_IF_ERROR(CheckLimits(s, context.limits));
  if (request.options().has_tree_mask() && s.ragged && s.batch > 1) {
    return InvalidField({-1, "options.tree_mask"}, "a ragged batch of several sequences has none");
  }
  const ScoreShape score_shape{-1, s.query_heads, s.dim_k, s.rows_q};
  ATTND_ASSIGN_OR_RETURN(const ScoreSpec scores,
                         ValidateOptions(request.options(), score_shape, tensor_bytes));
  WorkItem work;
  work.key = KernelKey{.q_dtype = s.dtype,
                       .kv_dtype = s.dtype,
                       .head_dim_k = static_cast<int32_t>(s.dim_k),
                       .head_dim_v = static_cast<int32_t>(s.dim_v),
                       .features = scores.features};
  ATTND_RETURN_IF_ERROR(CheckBackendSupports(context.backend, work.key, {-1, "FlashAttention"}));
  work.num_query_heads = static_cast<int32_t>(s.query_heads);
  work.num_kv_heads = static_cast<int32_t>(s.kv_heads);

  PreparedBatch batch;
  batch.input = InputLayout(tensor_bytes);
  const uint64_t element = SizeOf(s.dtype);
  const int64_t total_q = s.ragged ? s.rows_q : s.batch * s.rows_q;
  const bool wants_lse = scores.features.Has(Feature::kLse);
  ItemOffsets base;
  PlaceOptions(scores, batch.input, work, base);
  base.q = batch.input.Place(tensors.q, kOperandAlignmentBytes);
  base.k = batch.input.Place(tensors.k, kOperandAlignmentBytes);
  base.v = batch.input.Place(tensors.v, kOperandAlignmentBytes);
  base.out_bytes = static_cast<uint64_t>(total_q * s.query_heads * s.dim_v) * element;
  base.out = batch.output.Place(base.out_bytes);
  if (wants_lse) {
    base.lse_bytes = static_cast<uint64_t>(total_q * s.query_heads) * sizeof(float);
    base.lse = batch.output.Place(base.lse_bytes);
  }
  ATTND_RETURN_IF_ERROR(batch.input.Check());

  batch.phase = s.rows_q == 1 ? Phase::kDecode : Phase::kPrefill;
  batch.items.reserve(static_cast<size_t>(s.batch));
  batch.offsets.reserve(static_cast<size_t>(s.batch));
  for (int64_t b = 0; b < s.batch; ++b) {
    const int index = static_cast<int>(b);
    const int64_t first_q = s.ragged ? request.cu_seqlens_q(index) : b * s.rows_q;
    const int64_t first_k = s.ragged ? request.cu_seqlens_k(index) : b * s.rows_k;
    work.query_len = s.ragged ? request.cu_seqlens_q(index + 1) - first_q : s.rows_q;
    work.dense_kv_len = s.ragged ? request.cu_seqlens_k(index + 1) - first_k : s.rows_k;
    if (work.query_len == 0) continue;  // an empty sequence of a ragged batch has no rows
    work.dense_start_position = work.dense_kv_len - work.query_len;
    work.options.dropout.subsequence =
        request.options().dropout().subsequence() + static_cast<uint32_t>(b);
    ItemOffsets offsets = base;
    if (!batch.items.empty()) offsets.out_bytes = offsets.lse_bytes = 0;
    offsets.q += static_cast<uint64_t>(first_q * s.query_heads * s.dim_k) * element;
    offsets.k += static_cast<uint64_t>(first_k * s.kv_heads * s.dim_k) * element;
    offsets.v += static_cast<uint64_t>(first_k * s.kv_heads * s.dim_v) * element;
    offsets.out += static_cast<uint64_t>(first_q * s.query_heads * s.dim_v) * element;
    work.out = {nullptr, s.query_heads * s.dim_v, s.dim_v};
    if (wants_lse) {
      // Ragged [Hq, total_q]; dense [B, Hq, Sq].
      offsets.lse +=
          static_cast<uint64_t>(s.ragged ? first_q : first_q * s.query_heads) * sizeof(float);
      work.lse = {nullptr, /*token_stride_elems=*/1,
                  /*head_stride_elems=*/s.ragged ? total_q : s.rows_q};
    }
    batch.items.push_back(work);
    batch.offsets.push_back(offsets);
  }
  batch.num_items = static_cast<int64_t>(batch.items.size());
  return batch;
}

}  // namespace attnd
