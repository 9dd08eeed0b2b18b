// SPDX-License-Identifier: Apache-2.0
#include "kernels/hip/plan.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "kernels/attention/check_params.h"
#include "kernels/attention/visibility.h"
#include "kernels/base/status_macros.h"

namespace attnd {
namespace {

// Rows that share the waves of one block.
constexpr int64_t kMaxDecodeRows = 16;
// An item has splits for one block on each of some 128 multiprocessors, if they have so many keys;
// and for two, if those have more. Partial results cost 1 / 64 of the bytes of 256 keys at 8
// query heads a KV head.
constexpr int64_t kFewBlocks = 128, kFewestSplitKeys = 256;
constexpr int64_t kManyBlocks = 256, kSplitKeys = 512;
// In prefill a block has many rows, whose partial results cost more: only for the first.
constexpr int64_t kPrefillSplitKeys = 1024;

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

int64_t Work(const gpu::AttendTask& task) { return task.key_end - task.key_begin; }

// Neighbours in memory stay neighbours among equals.
bool Before(const gpu::AttendTask& a, const gpu::AttendTask& b) {
  if (Work(a) != Work(b)) return Work(a) > Work(b);
  if (a.item != b.item) return a.item < b.item;
  if (a.key_begin != b.key_begin) return a.key_begin < b.key_begin;
  return a.row_begin < b.row_begin;
}

// The time of `blocks` blocks of decode, each of `splits` splits, in units of what a multiprocessor
// takes for a split when memory is all that it waits for. Blocks start in rounds; two of them on a
// multiprocessor keep memory busy, one alone does not quite.
double DecodeTime(int64_t blocks, double splits, int64_t num_multiprocessors) {
  constexpr int64_t kResident = 2;
  constexpr double kAlone = 1.1, kStart = 0.5;
  const int64_t rounds = blocks / (kResident * num_multiprocessors);
  const int64_t rest = blocks % (kResident * num_multiprocessors);
  double time = static_cast<double>(rounds) * (kResident * splits + kStart);
  if (rest > 0) {
    const double share = static_cast<double>(rest) / static_cast<double>(num_multiprocessors);
    time += splits * (share <= 1 ? kAlone : share) + kStart;
  }
  return time;
}

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
    const int64_t split_keys = SplitKeys(item, DivideUp(rows, shape.rows()), phase, shape);
    for (int64_t begin = 0; begin < rows; begin += shape.rows()) {
      const int64_t end = std::min<int64_t>(rows, begin + shape.rows());
      const KeyRange keys = VisibleHull(item.options, item.start_position + begin / group(),
                                        item.start_position + (end - 1) / group(), item.kv_len);
      AddRows({.item = index,
               .row_begin = static_cast<int32_t>(begin),
               .row_end = static_cast<int32_t>(end)},
              keys, split_keys, phase);
    }
  }

  // Ends the plan: cuts the rows' key ranges, and orders the tasks.
  void Cut(int num_multiprocessors) {
    const int64_t at_once = SplitsAtOnce(num_multiprocessors);
    for (const gpu::Phase phase : {gpu::Phase::kPrefill, gpu::Phase::kDecode}) {
      std::vector<gpu::AttendTask>& tasks = plan_.attends[static_cast<size_t>(phase)];
      for (const gpu::AttendTask& whole : plan_.uncut[static_cast<size_t>(phase)]) {
        CutRange(whole, phase == gpu::Phase::kPrefill ? 1 : at_once, tasks);
      }
      std::ranges::sort(tasks, Before);
    }
  }

 private:
  int64_t group() const { return params_.num_query_heads / params_.num_kv_heads; }

  // Splits lie between multiples of this, counted from position 0.
  int64_t SplitKeys(const AttentionItem& item, int64_t row_tiles, gpu::Phase phase,
                    const gpu::TileShape& shape) const {
    const int64_t blocks = std::max<int64_t>(1, row_tiles * params_.num_kv_heads);
    const auto keys_for = [&](int64_t wanted) {
      return DivideUp(item.kv_len, std::max<int64_t>(1, wanted / blocks));
    };
    const int64_t few = std::clamp(keys_for(kFewBlocks), kFewestSplitKeys, kSplitKeys);
    const int64_t keys = phase == gpu::Phase::kPrefill
                             ? std::max(keys_for(kFewBlocks), kPrefillSplitKeys)
                             : std::max(few, keys_for(kManyBlocks));
    const int64_t tile = std::max<int64_t>(64, shape.keys);
    return DivideUp(keys, tile) * tile;
  }

  // How many splits of decode a block computes one after another: the fastest by DecodeTime.
  int64_t SplitsAtOnce(int num_multiprocessors) const {
    const auto& ranges = plan_.decode_ranges;
    const auto most = static_cast<int64_t>(ranges.size()) - 1;
    int64_t splits = 0;
    for (int64_t count = 1; count <= most; ++count) {
      splits += count * ranges[static_cast<size_t>(count)];
    }
    int64_t best = 1;
    double best_time = std::numeric_limits<double>::max();
    for (int64_t at_once = 1; at_once <= most; ++at_once) {
      int64_t tasks = 0;
      for (int64_t count = 1; count <= most; ++count) {
        // Most counts are no item's, and a division is what this loop costs.
        const int64_t num_ranges = ranges[static_cast<size_t>(count)];
        if (num_ranges > 0) tasks += num_ranges * DivideUp(count, at_once);
      }
      const double time =
          DecodeTime(tasks * params_.num_kv_heads,
                     static_cast<double>(splits) / static_cast<double>(tasks), num_multiprocessors);
      if (time < best_time) {
        best = at_once;
        best_time = time;
      }
    }
    return best;
  }

  void AddRows(gpu::AttendTask task, KeyRange keys, int64_t split_keys, gpu::Phase phase) {
    const int64_t count =
        keys.empty() ? 1 : DivideUp(keys.end, split_keys) - keys.begin / split_keys;
    task.key_begin = static_cast<int32_t>(keys.begin);
    task.key_end = static_cast<int32_t>(keys.end);
    if (count > 1) {
      task.split_keys = static_cast<int32_t>(split_keys);
      task.partial_row = static_cast<int32_t>(plan_.partial_rows);
      plan_.partial_rows += count * PartialRows(task);
    }
    if (phase == gpu::Phase::kDecode) {
      auto& ranges = plan_.decode_ranges;
      ranges.resize(std::max(ranges.size(), static_cast<size_t>(count) + 1));
      ++ranges[static_cast<size_t>(count)];
    }
    plan_.uncut[static_cast<size_t>(phase)].push_back(task);
  }
  // Of one split.
  int64_t PartialRows(const gpu::AttendTask& task) const {
    return static_cast<int64_t>(task.row_end - task.row_begin) * params_.num_kv_heads;
  }

  // A range to tasks of as many splits `at_once`, or one less.
  void CutRange(gpu::AttendTask whole, int64_t at_once, std::vector<gpu::AttendTask>& tasks) {
    if (whole.partial_row < 0) {
      tasks.push_back(whole);
      return;
    }
    const int64_t keys = whole.split_keys, end = DivideUp(whole.key_end, keys);
    int64_t split = whole.key_begin / keys;
    gpu::AttendTask task = whole;
    // Splits of a task lie one after another from its first key on: one that a window cut at its
    // start is alone.
    const bool starts_inside = whole.key_begin % keys != 0;
    if (end - split <= at_once && !starts_inside) {
      tasks.push_back(task);
      return;
    }
    task.range = static_cast<int32_t>(plan_.ranges.size());
    plan_.ranges.push_back({whole.partial_row, static_cast<int32_t>(end - split), 0});
    for (int64_t tasks_left = DivideUp(end - split, at_once); split < end; --tasks_left) {
      int64_t next = split + DivideUp(end - split, std::max<int64_t>(1, tasks_left));
      if (task.key_begin % keys != 0) next = split + 1;
      task.key_end = static_cast<int32_t>(std::min<int64_t>(whole.key_end, next * keys));
      tasks.push_back(task);
      ++plan_.ranges.back().num_tasks;
      task.key_begin = task.key_end;
      task.partial_row += static_cast<int32_t>((next - split) * PartialRows(task));
      split = next;
    }
  }

  const AttentionParams& params_;
  const gpu::Core core_;
  HipPlan& plan_;
};

}  // namespace

absl::Status MakeHipPlan(const AttentionParams& params, gpu::Core core, int num_multiprocessors,
                         HipPlan& plan) {
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
  plan.ranges.clear();
  plan.partial_rows = 0;
  plan.decode_ranges.clear();
  for (auto& uncut : plan.uncut) uncut.clear();
  for (auto& attends : plan.attends) attends.clear();

  Planner planner(params, core, plan);
  for (size_t i = 0; i < params.items.size(); ++i) planner.AddItem(static_cast<int32_t>(i));
  planner.Cut(num_multiprocessors);
  constexpr int64_t kMaxRows = int64_t{1} << 31;
  if (plan.partial_rows >= kMaxRows) {
    return absl::InvalidArgumentError(absl::StrCat("the splits of one launch have ",
                                                   plan.partial_rows, " rows, at most ", kMaxRows));
  }
  return absl::OkStatus();
}

}  // namespace attnd
