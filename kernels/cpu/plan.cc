// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/plan.h"

#include <algorithm>

#include "kernels/attention/check_params.h"
#include "kernels/attention/visibility.h"
#include "kernels/base/status_macros.h"

namespace attnd {
namespace {

// Tokens whose keys and values one append task writes.
constexpr int64_t kAppendTokens = 64;

// The pieces of `keys` between multiples of `split_keys`, counted from position 0.
struct Splits {
  KeyRange keys;
  int64_t split_keys;

  int64_t first() const { return keys.begin / split_keys; }
  int64_t count() const {
    return keys.empty() ? 1 : (keys.end + split_keys - 1) / split_keys - first();
  }
  KeyRange at(int64_t index) const {
    const int64_t begin = (first() + index) * split_keys;
    return {std::max(keys.begin, begin), std::min(keys.end, begin + split_keys)};
  }
};

class Planner {
 public:
  Planner(const AttentionParams& params, int num_threads, CpuPlan& plan)
      : params_(params), plan_(plan), row_tile_(plan.shape.row_tile) {
    const int64_t wanted = num_threads > 1 ? num_threads * kRowTilesPerThread : 1;
    while (row_tile_ >= 2 * kMinRowTile && NumRowTiles() < wanted) row_tile_ /= 2;
  }

  void AddItem(int32_t index) {
    const AttentionItem& item = params_.items[static_cast<size_t>(index)];
    if (item.new_k.data != nullptr) {
      for (int64_t token = 0; token < item.query_len; token += kAppendTokens) {
        plan_.appends.push_back({index, token, std::min(item.query_len, token + kAppendTokens)});
      }
    }
    if (item.q.data == nullptr) return;
    const int64_t rows = item.query_len * group();
    const bool decode = rows <= kMaxDecodeRows;
    for (int64_t begin = 0; begin < rows; begin += row_tile_) {
      const int64_t end = std::min(rows, begin + row_tile_);
      const KeyRange keys = VisibleHull(item.options, item.start_position + begin / group(),
                                        item.start_position + (end - 1) / group(), item.kv_len);
      // Many rows keep many threads busy; few are split along their keys.
      const int64_t split_keys = decode                         ? kDecodeSplitKeys
                                 : rows <= plan_.shape.row_tile ? kTileSplitKeys
                                                                : std::max<int64_t>(1, item.kv_len);
      for (int32_t head = 0; head < params_.num_kv_heads; ++head) {
        AddRows({.item = index,
                 .kv_head = head,
                 .row_begin = begin,
                 .row_end = end,
                 .keys = keys,
                 .partial_row = kNoPartial,
                 .decode = decode},
                split_keys);
      }
    }
  }

 private:
  int64_t group() const { return params_.num_query_heads / params_.num_kv_heads; }

  void AddRows(AttentionTask task, int64_t split_keys) {
    const Splits splits{task.keys, split_keys};
    const int64_t rows = task.row_end - task.row_begin;
    if (splits.count() == 1) {
      plan_.attends.push_back(task);
      return;
    }
    plan_.merges.push_back({task.item, task.kv_head, task.row_begin, task.row_end,
                            plan_.partial_rows, splits.count()});
    for (int64_t s = 0; s < splits.count(); ++s) {
      task.keys = splits.at(s);
      task.partial_row = plan_.partial_rows;
      plan_.attends.push_back(task);
      plan_.partial_rows += rows;
    }
  }

  int64_t NumRowTiles() const {
    int64_t tiles = 0;
    for (const AttentionItem& item : params_.items) {
      tiles += (item.query_len * group() + row_tile_ - 1) / row_tile_ * params_.num_kv_heads;
    }
    return tiles;
  }

  const AttentionParams& params_;
  CpuPlan& plan_;
  int64_t row_tile_;  // of this launch, at most the shape's
};

// Pairs of row and key, those behind a causal edge counted too: what the order goes by.
int64_t Work(const AttentionTask& task) {
  return (task.row_end - task.row_begin) * (task.keys.end - task.keys.begin);
}

}  // namespace

absl::Status MakePlan(const AttentionParams& params, const CpuMachine& machine, CpuPlan& plan) {
  ATTND_RETURN_IF_ERROR(CheckShapes(params));
  plan.shape = TileShapeFor(machine.caches, params.key.head_dim_k, params.key.head_dim_v);
  plan.appends.clear();
  plan.attends.clear();
  plan.merges.clear();
  plan.partial_rows = 0;
  plan.multiply_adds = 0;

  Planner planner(params, machine.num_threads, plan);
  for (size_t i = 0; i < params.items.size(); ++i) planner.AddItem(static_cast<int32_t>(i));

  // In a total order, so that plans of equal shapes are equal; std::stable_sort would allocate.
  std::ranges::sort(plan.attends, [](const AttentionTask& a, const AttentionTask& b) {
    if (Work(a) != Work(b)) return Work(a) > Work(b);
    if (a.item != b.item) return a.item < b.item;
    if (a.kv_head != b.kv_head) return a.kv_head < b.kv_head;
    if (a.row_begin != b.row_begin) return a.row_begin < b.row_begin;
    return a.keys.begin < b.keys.begin;
  });
  for (const AttentionTask& task : plan.attends) {
    plan.multiply_adds +=
        static_cast<double>(Work(task)) * (params.key.head_dim_k + params.key.head_dim_v);
  }
  return absl::OkStatus();
}

}  // namespace attnd
