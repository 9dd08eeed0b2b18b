// SPDX-License-Identifier: Apache-2.0
#include "kernels/hip/device_items.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <span>

#include "absl/strings/str_cat.h"
#include "kernels/attention/check_params.h"
#include "kernels/base/dtype.h"

namespace attnd {
namespace {

int64_t NumPages(const AttentionItem& item) {
  if (item.kv_len == 0) return 0;
  return (item.kv_len + item.kv.page_size_tokens - 1) / item.kv.page_size_tokens;
}

size_t TreeMaskBytes(const AttentionItem& item) {
  return static_cast<size_t>(item.query_len * ((item.query_len + 7) / 8));
}

template <class Data>
gpu::Heads DeviceHeads(const HeadsView<Data>& view, DType dtype) {
  const auto size = static_cast<int64_t>(SizeOf(dtype));
  return {static_cast<std::byte*>(const_cast<void*>(static_cast<const void*>(view.data))),
          view.token_stride_elems * size, view.head_stride_elems * size};
}

bool IsAligned(const gpu::Heads& heads) {
  return (std::bit_cast<uintptr_t>(heads.data) | static_cast<uintptr_t>(heads.token_stride_bytes) |
          static_cast<uintptr_t>(heads.head_stride_bytes)) %
             kOperandAlignmentBytes ==
         0;
}

int32_t Clamped(int64_t window) {
  return window < 0 ? gpu::kFar : static_cast<int32_t>(std::min<int64_t>(window, gpu::kFar));
}

// Keys [0, kv_len) lie in runs of at least this many to a page; a power of two.
int32_t PageRun(const AttentionItem& item) {
  constexpr int64_t kLongest = 64;  // what one thread of a kernel loads, at most
  const int64_t page = item.kv.page_size_tokens;
  if (page >= item.kv_len) return kLongest;
  return static_cast<int32_t>(std::min(kLongest, page & -page));
}

void FillKv(const AttentionParams& params, const AttentionItem& item, int page_shift,
            UploadWriter& writer, gpu::Item& to) {
  const KvView& kv = item.kv;
  const auto size = static_cast<int64_t>(SizeOf(params.key.kv_dtype));
  to.k = kv.k;
  to.v = kv.v;
  to.k_head_stride_bytes = kv.k_head_stride_elems * size;
  to.k_token_stride_bytes = kv.k_token_stride_elems * size;
  to.v_head_stride_bytes = kv.v_head_stride_elems * size;
  to.v_token_stride_bytes = kv.v_token_stride_elems * size;
  to.num_pages = static_cast<int32_t>(NumPages(item));
  if (to.num_pages == 0) return;
  // A dense tensor is one page, however long it says it is.
  to.page_size =
      gpu::FastDivide::By(static_cast<uint32_t>(std::min<int64_t>(kv.page_size_tokens, gpu::kFar)));
  to.page_run = PageRun(item);
  to.page_shift = page_shift;
  to.page_places = writer.DeviceAddress<uint32_t>();
  const std::span<uint32_t> places = writer.Reserve<uint32_t>(static_cast<size_t>(to.num_pages));
  for (size_t page = 0; page < places.size(); ++page) {
    places[page] = static_cast<uint32_t>(kv.page_offsets[page] >> page_shift);
  }
}

void FillOptions(const AttentionParams& params, const AttentionItem& item, UploadWriter& writer,
                 gpu::Item& to) {
  const ScoreOptions& options = item.options;
  to.window_left = Clamped(options.window_left);
  to.window_right = Clamped(options.window_right);
  if (options.causal) to.window_right = 0;
  // Queries of the sign of the scale, or zero: then any scale does.
  const float scale = options.softmax_scale;
  to.scale = scale == 0.0f ? 1.0f : std::abs(scale);
  to.query_sign = scale == 0.0f ? 0.0f : scale < 0.0f ? -1.0f : 1.0f;
  to.softcap = options.softcap;
  const auto heads = static_cast<size_t>(params.num_query_heads);
  if (options.alibi_slopes != nullptr) {
    to.alibi_slopes = writer.Append(std::span<const float>(options.alibi_slopes, heads));
  }
  if (options.sinks != nullptr) {
    to.sinks = writer.Append(std::span<const float>(options.sinks, heads));
  }
  if (options.tree_mask != nullptr) {
    to.tree_mask = writer.Append(std::span<const uint8_t>(options.tree_mask, TreeMaskBytes(item)));
  }
  if (options.dropout.enabled()) {
    to.dropout_seed = options.dropout.seed;
    to.dropout_subsequence = options.dropout.subsequence;
    to.dropout_threshold = options.dropout.threshold();
    to.dropout_scale = options.dropout.scale();
  }
}

}  // namespace

absl::Status CheckAlignment(const AttentionParams& params, const AttentionItem& item,
                            size_t index) {
  const auto unaligned = [index](const char* what) {
    return absl::InvalidArgumentError(absl::StrCat("item ", index, ": rows of ", what,
                                                   " must be aligned to ", kOperandAlignmentBytes,
                                                   " bytes"));
  };
  const DType q = params.key.q_dtype;
  if (!IsAligned(DeviceHeads(item.q, q))) return unaligned("q");
  if (!IsAligned(DeviceHeads(item.out, q))) return unaligned("out");
  if (!IsAligned(DeviceHeads(item.new_k, q))) return unaligned("new_k");
  if (!IsAligned(DeviceHeads(item.new_v, q))) return unaligned("new_v");
  const auto size = static_cast<int64_t>(SizeOf(params.key.kv_dtype));
  if (NumPages(item) == 0) return absl::OkStatus();
  const KvView& kv = item.kv;
  const uint64_t bits = std::bit_cast<uintptr_t>(kv.k) | std::bit_cast<uintptr_t>(kv.v) |
                        static_cast<uint64_t>((kv.k_head_stride_elems | kv.k_token_stride_elems |
                                               kv.v_head_stride_elems | kv.v_token_stride_elems) *
                                              size);
  return bits % kOperandAlignmentBytes == 0 ? absl::OkStatus() : unaligned("the KV pages");
}

absl::StatusOr<int> PageShift(const AttentionItem& item, size_t index) {
  uint64_t bits = 0;
  for (int64_t page = 0; page < NumPages(item); ++page) bits |= item.kv.page_offsets[page];
  if (bits == 0) return 0;
  const int shift = std::countr_zero(bits);
  if (bits % kOperandAlignmentBytes != 0 || bits >> shift > UINT32_MAX) {
    return absl::InvalidArgumentError(absl::StrCat(
        "item ", index, ": rows of the KV pages must be aligned to ", kOperandAlignmentBytes,
        " bytes, and page offsets be 32-bit multiples of a power of two; together these have the "
        "bits 0x",
        absl::Hex(bits)));
  }
  return shift;
}

size_t OptionBytes(const AttentionParams& params, const AttentionItem& item) {
  const size_t heads = UploadWriter::Padded(static_cast<size_t>(params.num_query_heads) * 4);
  size_t bytes = UploadWriter::Padded(static_cast<size_t>(NumPages(item)) * sizeof(uint32_t));
  if (item.options.alibi_slopes != nullptr) bytes += heads;
  if (item.options.sinks != nullptr) bytes += heads;
  if (item.options.tree_mask != nullptr) bytes += UploadWriter::Padded(TreeMaskBytes(item));
  return bytes;
}

gpu::Item UploadItem(const AttentionParams& params, const AttentionItem& item, int page_shift,
                     UploadWriter& writer) {
  const DType q = params.key.q_dtype;
  gpu::Item to;
  to.q = DeviceHeads(item.q, q);
  to.out = DeviceHeads(item.out, q);
  to.new_k = DeviceHeads(item.new_k, q);
  to.new_v = DeviceHeads(item.new_v, q);
  to.lse = item.lse.data;
  to.lse_token_stride_elems = item.lse.token_stride_elems;
  to.lse_head_stride_elems = item.lse.head_stride_elems;
  to.query_len = static_cast<int32_t>(item.query_len);
  to.start_position = static_cast<int32_t>(item.start_position);
  to.kv_len = static_cast<int32_t>(item.kv_len);
  FillKv(params, item, page_shift, writer, to);
  FillOptions(params, item, writer, to);
  return to;
}

}  // namespace attnd
