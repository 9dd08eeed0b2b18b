// SPDX-License-Identifier: Apache-2.0
#include "kernels/hip/plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/attention/check_params.h"
#include "kernels/attention/visibility.h"
#include "kernels/base/status_macros.h"

namespace attnd {
namespace {

// Rows that share the waves of one block.
constexpr int64_t kMaxDecodeRows = 16;
// Blocks that one item is split into where its keys allow: one for each of some 128
// multiprocessors.
constexpr int64_t kBlocksOfItem = 128;
// A split no shorter: its partial results cost 1 / 64 of its keys' bytes at 8 query heads a KV
// head.
constexpr int64_t kMinSplitKeys = 256;

// Positions are 32 bits wide on the device, and sums of two stay in range.
absl::Status CheckRange(const AttentionItem& item, size_t index) {
  if (item.query_len < gpu::kFar && item.kv_len < gpu::kFar && item.start_position < gpu::kFar &&
      item.start_position > -gpu::kFar) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "item ", index, ": lengths and positions must be below ", gpu::kFar, ": query_len=",
      item.query_len, " kv_len=", item.kv_len, " start_position=", item.start_position));
}

gpu::Compute ComputeFor(const KernelKey& key) {
  if (key.q_dtype != key.kv_dtype) return gpu::Compute::kF32;
  switch (key.q_dtype) {
    case DType::kF32:
      return gpu::Compute::kF32;
    case DType::kF16:
      return gpu::Compute::kF16;
    case DType::kBF16:
      return gpu::Compute::kBF16;
  }
  return gpu::Compute::kF32;
}

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

class Planner {
 public:
  Planner(const AttentionParams& params, gpu::Core core, HipPlan& plan)
      : params_(params), core_(core), plan_(plan) {}

  void AddItem(int32_t index) {
    const AttentionItem& item = params_.items[static_cast<size_t>(index)];
    if (item.new_k.data != nullptr) {
      for (int64_t token = 0; token < item.query_len; token += gpu::kAppendTokens) {
        plan_.appends.push_back(
            {index, static_cast<int32_t>(token),
             static_cast<int32_t>(std::min<int64_t>(item.query_len, token + gpu::kAppendTokens)),
             0});
      }
    }
    if (item.q.data == nullptr) return;
    const int64_t rows = item.query_len * group();
    const gpu::Phase phase = rows <= kMaxDecodeRows ? gpu::Phase::kDecode : gpu::Phase::kPrefill;
    const gpu::TileShape shape = gpu::TileShapeFor(core_, plan_.compute, plan_.head_dim, phase);
    const int64_t split_keys = SplitKeys(item, DivideUp(rows, shape.rows()), shape);
    for (int64_t begin = 0; begin < rows; begin += shape.rows()) {
      const int64_t end = std::min<int64_t>(rows, begin + shape.rows());
      const KeyRange keys = VisibleHull(item.options, item.start_position + begin / group(),
                                        item.start_position + (end - 1) / group(), item.kv_len);
      for (int32_t head = 0; head < params_.num_kv_heads; ++head) {
        AddRows({.item = index,
                 .kv_head = head,
                 .row_begin = static_cast<int32_t>(begin),
                 .row_end = static_cast<int32_t>(end)},
                keys, split_keys, plan_.attends[static_cast<size_t>(phase)]);
      }
    }
  }

 private:
  int64_t group() const { return params_.num_query_heads / params_.num_kv_heads; }

  // Splits lie between multiples of this, counted from position 0.
  int64_t SplitKeys(const AttentionItem& item, int64_t row_tiles,
                    const gpu::TileShape& shape) const {
    const int64_t blocks = row_tiles * params_.num_kv_heads;
    const int64_t wanted = std::max<int64_t>(1, kBlocksOfItem / std::max<int64_t>(1, blocks));
    const int64_t tile = std::max<int64_t>(64, shape.keys);
    return std::max(kMinSplitKeys, DivideUp(DivideUp(item.kv_len, wanted), tile) * tile);
  }

  void AddRows(gpu::AttendTask task, KeyRange keys, int64_t split_keys,
               std::vector<gpu::AttendTask>& attends) {
    const int64_t first = keys.begin / split_keys;
    const int64_t count = keys.empty() ? 1 : DivideUp(keys.end, split_keys) - first;
    const int64_t rows = task.row_end - task.row_begin;
    if (count > 1) {
      plan_.merges.push_back({task.item, task.kv_head, task.row_begin, task.row_end,
                              static_cast<int32_t>(plan_.partial_rows),
                              static_cast<int32_t>(count)});
    }
    for (int64_t s = first; s < first + count; ++s) {
      task.key_begin = static_cast<int32_t>(std::max(keys.begin, s * split_keys));
      task.key_end = static_cast<int32_t>(std::min(keys.end, (s + 1) * split_keys));
      if (count > 1) {
        task.partial_row = static_cast<int32_t>(plan_.partial_rows);
        plan_.partial_rows += rows;
      }
      attends.push_back(task);
    }
  }

  const AttentionParams& params_;
  const gpu::Core core_;
  HipPlan& plan_;
};

int64_t Work(const gpu::AttendTask& task) { return task.key_end - task.key_begin; }

// Neighbours in memory stay neighbours among equals: the heads of a page.
bool Before(const gpu::AttendTask& a, const gpu::AttendTask& b) {
  if (Work(a) != Work(b)) return Work(a) > Work(b);
  if (a.item != b.item) return a.item < b.item;
  if (a.key_begin != b.key_begin) return a.key_begin < b.key_begin;
  if (a.row_begin != b.row_begin) return a.row_begin < b.row_begin;
  return a.kv_head < b.kv_head;
}

}  // namespace

absl::Status MakeHipPlan(const AttentionParams& params, gpu::Core core, HipPlan& plan) {
  for (size_t i = 0; i < params.items.size(); ++i) {
    ATTND_RETURN_IF_ERROR(CheckRange(params.items[i], i));
  }
  ATTND_RETURN_IF_ERROR(CheckShapes(params));
  plan.compute = ComputeFor(params.key);
  plan.head_dim = gpu::CompiledHeadDim(std::max(params.key.head_dim_k, params.key.head_dim_v));
  plan.general = !params.key.features
                      .Minus({Feature::kCausal, Feature::kWindow, Feature::kSinks, Feature::kLse})
                      .empty();
  plan.appends.clear();
  plan.merges.clear();
  plan.partial_rows = 0;
  for (auto& attends : plan.attends) attends.clear();

  Planner planner(params, core, plan);
  for (size_t i = 0; i < params.items.size(); ++i) planner.AddItem(static_cast<int32_t>(i));
  for (auto& attends : plan.attends) std::ranges::sort(attends, Before);
  constexpr int64_t kMaxRows = int64_t{1} << 31;
  if (plan.partial_rows >= kMaxRows) {
    return absl::InvalidArgumentError(absl::StrCat("the splits of one launch have ",
                                                   plan.partial_rows, " rows, at most ", kMaxRows));
  }
  return absl::OkStatus();
}

}  // namespace attnd
