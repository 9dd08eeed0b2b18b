// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "kernels/attention/check_params.h"
#include "kernels/base/status_macros.h"
#include "server/rpc/convert.h"
#include "server/rpc/validate.h"

namespace attnd {
namespace {

absl::Status CheckRequest(const v1::AttendRequest& request, const ValidationContext& context) {
  if (!request.has_session()) return absl::InvalidArgumentError("session is missing");
  if (request.items_size() == 0) {
    return absl::InvalidArgumentError("the batch has no items; at least 1 is expected");
  }
  if (request.items_size() > context.limits.max_items) {
    return absl::InvalidArgumentError(absl::StrCat("the batch has ", request.items_size(),
                                                   " items, at most ", context.limits.max_items,
                                                   " are served in one request"));
  }
  // Also starts the lease anew.
  const SessionRef by = AskedBy(request, context.tenant);
  return context.cache.RenewLease(by).status();
}

absl::Status CheckNoDuplicates(const v1::AttendRequest& request) {
  if (request.items_size() == 1) return absl::OkStatus();
  absl::flat_hash_map<std::pair<SequenceId, int32_t>, int> seen;
  seen.reserve(static_cast<size_t>(request.items_size()));
  for (int i = 0; i < request.items_size(); ++i) {
    const v1::AttendItem& item = request.items(i);
    const auto [first, inserted] =
        seen.try_emplace({FromProto<SequenceId>(item.sequence()), item.layer()}, i);
    if (!inserted) {
      return InvalidField({i, ""},
                          absl::StrCat("the same sequence and layer as items[", first->second,
                                       "]; a request has at most one item "
                                       "for each"));
    }
  }
  return absl::OkStatus();
}

// Validates one item after another and keeps what several of them share.
class AttendValidator {
 public:
  AttendValidator(const v1::AttendRequest& request, uint64_t tensor_bytes,
                  const ValidationContext& context, PreparedBatch& batch)
      : request_(request),
        by_(AskedBy(request, context.tenant)),
        tensor_bytes_(tensor_bytes),
        context_(context),
        batch_(batch) {}

  absl::Status AddItem(int index);

 private:
  // Positions and the step.
  absl::Status CheckAccess(int index, bool write, int64_t rows, LayerAccess& access) const;
  absl::Status FindPlace(int index);

  const v1::AttendRequest& request_;
  const SessionRef by_;
  const uint64_t tensor_bytes_;
  const ValidationContext& context_;
  PreparedBatch& batch_;
  // Of the item before: a request often has many layers of one sequence.
  SequenceId sequence_;
  SequencePlace place_;
};

absl::Status AttendValidator::FindPlace(int index) {
  const v1::AttendItem& item = request_.items(index);
  if (!item.has_sequence()) return InvalidField({index, "sequence"}, "is missing");
  const SequenceId sequence = FromProto<SequenceId>(item.sequence());
  if (sequence != sequence_ || sequence == SequenceId()) {
    ATTND_ASSIGN_OR_RETURN(place_, context_.cache.PlaceOf(by_, sequence));
    sequence_ = sequence;
  }
  if (item.layer() < 0 || item.layer() >= place_.geometry.num_layers) {
    return InvalidField({index, "layer"}, absl::StrCat(item.layer(), ", expected 0 to ",
                                                       place_.geometry.num_layers - 1));
  }
  return absl::OkStatus();
}

absl::Status AttendValidator::CheckAccess(int index, bool write, int64_t rows,
                                          LayerAccess& access) const {
  const v1::AttendItem& item = request_.items(index);
  if (item.start_position() < 0) {
    return InvalidField({index, "start_position"},
                        absl::StrCat(item.start_position(), ", expected at least 0"));
  }
  if (item.start_position() > kMaxSequenceTokens - rows) {
    return InvalidField({index, "start_position"},
                        absl::StrCat(item.start_position(), " with ", rows,
                                     " rows ends beyond position ", kMaxSequenceTokens));
  }
  if (write && item.step() == 0) {
    return InvalidField({index, "step"}, "0, expected at least 1 where k and v are given");
  }
  access = LayerAccess{.by = by_,
                       .sequence = sequence_,
                       .layer = LayerIndex(static_cast<uint32_t>(item.layer())),
                       .write = write,
                       .step = write ? item.step() : 0,
                       .start_position = TokenCount(item.start_position()),
                       .num_tokens = TokenCount(rows),
                       .kv_length = std::nullopt};
  if (!item.has_kv_length()) return absl::OkStatus();
  if (write) {
    return InvalidField({index, "kv_length"}, "is for reads only, but k and v are given");
  }
  if (item.kv_length() < 0 || item.kv_length() > kMaxSequenceTokens) {
    return InvalidField({index, "kv_length"},
                        absl::StrCat(item.kv_length(), ", expected 0 to ", kMaxSequenceTokens));
  }
  if (item.options().has_tree_mask() && item.kv_length() > item.start_position() + rows) {
    return InvalidField({index, "kv_length"},
                        absl::StrCat(item.kv_length(), ", expected at most start_position + n = ",
                                     item.start_position() + rows, " with a tree mask"));
  }
  access.kv_length = TokenCount(item.kv_length());
  return absl::OkStatus();
}

absl::Status AttendValidator::AddItem(int index) {
  const v1::AttendItem& item = request_.items(index);
  ATTND_RETURN_IF_ERROR(FindPlace(index));
  const bool has_q = item.has_q();
  const bool write = item.has_k() || item.has_v();
  if (!has_q && !write) return InvalidField({index, ""}, "has neither q nor k and v");
  if (item.has_k() != item.has_v()) {
    return InvalidField({index, item.has_k() ? "v" : "k"}, "is missing: k and v come together");
  }

  constexpr absl::string_view kQDims = "n, num_query_heads, head_dim_k";
  constexpr absl::string_view kKDims = "n, num_kv_heads, head_dim_k";
  constexpr absl::string_view kVDims = "n, num_kv_heads, head_dim_v";
  const v1::Tensor& leading = has_q ? item.q() : item.k();
  const FieldName leading_name{index, has_q ? "q" : "k"};
  ATTND_ASSIGN_OR_RETURN(const DType dtype, CheckFloatDType(leading, leading_name));
  ATTND_ASSIGN_OR_RETURN(const int64_t rows,
                         CheckRows(leading, leading_name, 3, has_q ? kQDims : kKDims));
  const int64_t query_heads = place_.geometry.num_query_heads,
                kv_heads = place_.geometry.num_kv_heads;
  const int64_t dim_k = place_.geometry.head_dim_k, dim_v = place_.geometry.head_dim_v;
  const v1::DType wire_dtype = leading.dtype();

  // Everything is checked before anything is placed: a refused item takes no room.
  TensorRange q, k, v;
  if (has_q) {
    ATTND_ASSIGN_OR_RETURN(
        q, CheckTensor(item.q(), {index, "q"}, {wire_dtype, {rows, query_heads, dim_k}, kQDims},
                       tensor_bytes_));
  }
  if (write) {
    ATTND_ASSIGN_OR_RETURN(
        k, CheckTensor(item.k(), {index, "k"}, {wire_dtype, {rows, kv_heads, dim_k}, kKDims},
                       tensor_bytes_));
    ATTND_ASSIGN_OR_RETURN(
        v, CheckTensor(item.v(), {index, "v"}, {wire_dtype, {rows, kv_heads, dim_v}, kVDims},
                       tensor_bytes_));
  }
  LayerAccess access;
  ATTND_RETURN_IF_ERROR(CheckAccess(index, write, rows, access));
  ScoreSpec scores;
  if (has_q) {
    const ScoreShape shape{index, query_heads, dim_k, rows};
    ATTND_ASSIGN_OR_RETURN(scores, ValidateOptions(item.options(), shape, tensor_bytes_));
  }
  WorkItem work;
  work.key = KernelKey{.q_dtype = dtype,
                       .kv_dtype = place_.geometry.kv_dtype,
                       .head_dim_k = place_.geometry.head_dim_k,
                       .head_dim_v = place_.geometry.head_dim_v,
                       .features = scores.features};
  ATTND_RETURN_IF_ERROR(CheckBackendSupports(context_.backend, work.key, {index, ""}));

  ItemOffsets offsets;
  work.num_query_heads = place_.geometry.num_query_heads;
  work.num_kv_heads = place_.geometry.num_kv_heads;
  work.access = access;
  work.device = place_.device;
  work.query_len = rows;
  if (has_q) {
    offsets.q = batch_.input.Place(q, kOperandAlignmentBytes);
    PlaceOptions(scores, batch_.input, work, offsets);
    offsets.out_bytes = static_cast<uint64_t>(rows * query_heads * dim_v) * SizeOf(dtype);
    offsets.out = batch_.output.Place(offsets.out_bytes);
    work.out = {nullptr, query_heads * dim_v, dim_v};
    if (scores.features.Has(Feature::kLse)) {
      offsets.lse_bytes = static_cast<uint64_t>(rows * query_heads) * sizeof(float);
      offsets.lse = batch_.output.Place(offsets.lse_bytes);
      work.lse = {nullptr, /*token_stride_elems=*/1, /*head_stride_elems=*/rows};
    }
  }
  if (write) {
    offsets.k = batch_.input.Place(k, kOperandAlignmentBytes);
    offsets.v = batch_.input.Place(v, kOperandAlignmentBytes);
  }
  batch_.items.push_back(work);
  batch_.offsets.push_back(offsets);
  return absl::OkStatus();
}

Phase PhaseOf(const std::vector<WorkItem>& items) {
  bool decode = false, prefill = false;
  for (const WorkItem& item : items) (item.query_len == 1 ? decode : prefill) = true;
  if (decode && prefill) return Phase::kMixed;
  return prefill ? Phase::kPrefill : Phase::kDecode;
}

void ClearPadding(std::byte* output, uint64_t offset, uint64_t bytes) {
  if (offset == ItemOffsets::kNone || bytes % kStagingAlignment == 0) return;
  std::memset(output + offset + bytes, 0, kStagingAlignment - bytes % kStagingAlignment);
}

}  // namespace

absl::StatusOr<PreparedBatch> ValidateAttend(const v1::AttendRequest& request,
                                             uint64_t tensor_bytes,
                                             const ValidationContext& context) {
  ATTND_RETURN_IF_ERROR(CheckRequest(request, context));
  ATTND_RETURN_IF_ERROR(CheckNoDuplicates(request));

  PreparedBatch batch;
  batch.num_items = request.items_size();
  batch.input = InputLayout(tensor_bytes);
  batch.items.reserve(static_cast<size_t>(request.items_size()));
  batch.offsets.reserve(static_cast<size_t>(request.items_size()));
  AttendValidator validator(request, tensor_bytes, context, batch);
  int64_t tokens = 0;
  for (int i = 0; i < request.items_size(); ++i) {
    const size_t accepted = batch.items.size();
    if (absl::Status status = validator.AddItem(i); !status.ok()) {
      batch.refused.push_back({.index = i, .status = std::move(status)});
      continue;
    }
    tokens += batch.items[accepted].num_tokens();
    if (tokens > context.limits.max_tokens) {
      return absl::InvalidArgumentError(
          absl::StrCat("the batch has more than ", context.limits.max_tokens,
                       " tokens, summed over its items: send smaller batches"));
    }
  }
  ATTND_RETURN_IF_ERROR(batch.input.Check());
  batch.phase = PhaseOf(batch.items);
  return batch;
}

absl::Status PreparedBatch::Stage(std::span<const ByteRange> tensor_data, Staging& staging,
                                  Request& request) {
  ATTND_ASSIGN_OR_RETURN(request.input,
                         staging.Allocate(Bytes(input.total_bytes()), request.tenant));
  ATTND_ASSIGN_OR_RETURN(request.output,
                         staging.Allocate(Bytes(output.total_bytes()), request.tenant));
  std::byte* const in = request.input.data();
  std::byte* const out = request.output.data();
  input.CopyTo(tensor_data, in);
  const auto at = [](std::byte* base, uint64_t offset) -> std::byte* {
    return offset == ItemOffsets::kNone ? nullptr : base + offset;
  };
  for (size_t i = 0; i < items.size(); ++i) {
    WorkItem& item = items[i];
    const ItemOffsets& place = offsets[i];
    item.q = at(in, place.q);
    item.k = at(in, place.k);
    item.v = at(in, place.v);
    item.options.alibi_slopes = reinterpret_cast<const float*>(at(in, place.alibi));
    item.options.sinks = reinterpret_cast<const float*>(at(in, place.sinks));
    item.options.tree_mask = reinterpret_cast<const uint8_t*>(at(in, place.tree_mask));
    item.out.data = at(out, place.out);
    item.lse.data = reinterpret_cast<float*>(at(out, place.lse));
    // Staging memory has held other clients' tensors: what no kernel will overwrite is cleared.
    ClearPadding(out, place.out, place.out_bytes);
    ClearPadding(out, place.lse, place.lse_bytes);
  }
  request.items = std::move(items);
  return absl::OkStatus();
}

}  // namespace attnd
