// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kv_cache/error_detail.h"
#include "server/rpc/validate.h"

namespace attnd {
namespace {

// Wider than any sequence: a larger window means the same and could overflow a kernel's arithmetic.
constexpr int64_t kWidestWindow = 2 * kMaxSequenceTokens;

absl::StatusOr<int64_t> CheckWindow(int64_t window, const FieldName& name) {
  if (window < 0) {
    return InvalidField(name, absl::StrCat(window, ", expected at least 0 (absent: no limit)"));
  }
  return std::min(window, kWidestWindow);
}

}  // namespace

absl::StatusOr<ScoreSpec> ValidateOptions(const v1::AttentionOptions& options,
                                          const ScoreShape& shape, uint64_t tensor_bytes) {
  ScoreSpec spec;
  ScoreOptions& out = spec.options;
  const auto name = [&](absl::string_view field) { return FieldName{shape.item, field}; };

  out.causal = options.causal();
  if (out.causal) spec.features.Add(Feature::kCausal);
  out.softmax_scale = options.has_softmax_scale()
                          ? options.softmax_scale()
                          : 1.0f / std::sqrt(static_cast<float>(shape.head_dim_k));
  if (!std::isfinite(out.softmax_scale)) {
    return InvalidField(name("options.softmax_scale"),
                        absl::StrCat(out.softmax_scale, ", expected a finite number"));
  }
  out.softcap = options.softcap();
  if (!(std::isfinite(out.softcap) && out.softcap >= 0.0f)) {
    return InvalidField(name("options.softcap"),
                        absl::StrCat(out.softcap, ", expected a finite number of at least 0"));
  }
  if (out.softcap > 0.0f) spec.features.Add(Feature::kSoftcap);

  if (options.has_window_left()) {
    ATTND_ASSIGN_OR_RETURN(out.window_left,
                           CheckWindow(options.window_left(), name("options.window_left")));
  }
  if (options.has_window_right()) {
    ATTND_ASSIGN_OR_RETURN(out.window_right,
                           CheckWindow(options.window_right(), name("options.window_right")));
  }
  if (options.has_window_left() || options.has_window_right()) {
    spec.features.Add(Feature::kWindow);
  }

  const ExpectedTensor per_head{v1::DTYPE_F32, {shape.num_query_heads}, "num_query_heads"};
  if (options.has_alibi_slopes()) {
    ATTND_ASSIGN_OR_RETURN(
        spec.alibi,
        CheckTensor(options.alibi_slopes(), name("options.alibi_slopes"), per_head, tensor_bytes));
    spec.features.Add(Feature::kAlibi);
  }
  if (options.has_sinks()) {
    ATTND_ASSIGN_OR_RETURN(
        spec.sinks, CheckTensor(options.sinks(), name("options.sinks"), per_head, tensor_bytes));
    spec.features.Add(Feature::kSinks);
  }
  if (options.has_tree_mask()) {
    const ExpectedTensor mask{v1::DTYPE_U8, {shape.rows, (shape.rows + 7) / 8}, "n, ceil(n / 8)"};
    ATTND_ASSIGN_OR_RETURN(
        spec.tree_mask,
        CheckTensor(options.tree_mask(), name("options.tree_mask"), mask, tensor_bytes));
    spec.features.Add(Feature::kTreeMask);
  }

  const v1::Dropout& dropout = options.dropout();
  if (!(dropout.probability() >= 0.0f && dropout.probability() < 1.0f)) {
    return InvalidField(name("options.dropout.probability"),
                        absl::StrCat(dropout.probability(), ", expected a number in [0, 1)"));
  }
  out.dropout = Dropout{.probability = dropout.probability(),
                        .seed = dropout.seed(),
                        .subsequence = dropout.subsequence()};
  if (out.dropout.enabled()) spec.features.Add(Feature::kDropout);
  if (options.return_lse()) spec.features.Add(Feature::kLse);
  return spec;
}

void PlaceOptions(const ScoreSpec& spec, InputLayout& input, WorkItem& item, ItemOffsets& offsets) {
  item.options = spec.options;
  item.key.features = spec.features;
  if (spec.alibi) offsets.alibi = input.Place(*spec.alibi, sizeof(float));
  if (spec.sinks) offsets.sinks = input.Place(*spec.sinks, sizeof(float));
  if (spec.tree_mask) offsets.tree_mask = input.Place(*spec.tree_mask, 1);
}

absl::Status CheckBackendSupports(const AttentionBackend& backend, const KernelKey& key,
                                  const FieldName& name) {
  absl::Status status = backend.Supports(key);
  if (status.ok()) return status;
  absl::Status named(status.code(),
                     absl::StrCat(ToString(name), name.item < 0 ? "" : ": ", status.message()));
  return AttachErrorDetail(named, {.reason = ErrorReason::kCapabilityMissing});
}

}  // namespace attnd
