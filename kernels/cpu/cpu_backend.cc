// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu_backend.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/plan.h"
#include "kernels/cpu/scratch.h"

namespace attnd {
namespace {

// Work below which waking another thread costs more than it brings: some 10 us of one core.
constexpr double kParallelMultiplyAdds = 4e5;
constexpr int64_t kParallelAppendTokens = 32;
constexpr int64_t kParallelMergeRows = 64;

Capabilities CpuCapabilities(std::string isa) {
  Capabilities capabilities;
  capabilities.backend = "cpu";
  capabilities.isa = std::move(isa);
  for (DType q : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (DType kv : {DType::kF32, DType::kF16, DType::kBF16}) {
      capabilities.dtypes.emplace_back(q, kv);
    }
  }
  for (int32_t dim : {32, 64, 80, 96, 128, 192, 256}) capabilities.head_dims.emplace_back(dim, dim);
  capabilities.head_dims.emplace_back(192, 128);
  capabilities.any_head_dims = true;
  capabilities.max_head_dim = static_cast<int32_t>(kMaxHeadDim);
  capabilities.max_page_size_tokens = int64_t{1} << 32;
  for (Feature feature : kAllFeatures) capabilities.features.Add(feature);
  return capabilities;
}

// Floats on a cache-line boundary, which is all the alignment that vectors need.
struct AlignedDelete {
  void operator()(float* p) const { ::operator delete[](p, std::align_val_t(64)); }
};
using AlignedFloats = std::unique_ptr<float[], AlignedDelete>;

AlignedFloats AllocateFloats(int64_t count) {
  void* memory = ::operator new[](static_cast<size_t>(count) * sizeof(float), std::align_val_t(64));
  return AlignedFloats(static_cast<float*>(memory));
}

// A CpuPlan and the memory its splits meet in, which grows to the largest plan it has held.
class PlanWithWorkspace final : public LaunchPlan {
 public:
  CpuPlan plan;

  void Reserve(int64_t elems) {
    if (elems <= capacity_) return;
    capacity_ = std::max(elems, 2 * capacity_);
    workspace_ = AllocateFloats(capacity_);
  }
  float* workspace() const { return workspace_.get(); }

 private:
  AlignedFloats workspace_;
  int64_t capacity_ = 0;
};

class CpuBackend final : public AttentionBackend {
 public:
  CpuBackend(CpuDevice& device, const CpuBackendOptions& options)
      : pool_(device.pool()),
        machine_{options.caches, pool_.num_threads()},
        kernels_(DispatchedKernels()),
        bf16_(kernels_.attend_tile_dot == nullptr ? Bf16Unit::kNone
                                                  : std::min(options.bf16, DetectBf16Unit())),
        capabilities_(CpuCapabilities(bf16_ == Bf16Unit::kNone
                                          ? std::string(kernels_.isa)
                                          : absl::StrCat(kernels_.isa, "+", Name(bf16_)))) {
    int64_t elems = 0;
    for (int32_t dim = 1; dim <= kMaxHeadDim; ++dim) {
      elems =
          std::max(elems, Scratch::Elems(TileShapeFor(machine_.caches, dim, 1), dim, kMaxHeadDim));
    }
    for (int i = 0; i < pool_.num_threads(); ++i) scratch_.push_back(AllocateFloats(elems));
  }

  const Capabilities& capabilities() const override { return capabilities_; }
  absl::Status Supports(const KernelKey& key) const override {
    return CheckSupported(capabilities_, key);
  }
  std::unique_ptr<LaunchPlan> NewPlan() const override {
    return std::make_unique<PlanWithWorkspace>();
  }

  absl::Status Plan(const AttentionParams& params, LaunchPlan& plan) const override {
    ATTND_RETURN_IF_ERROR(Supports(params.key));
    auto& mine = static_cast<PlanWithWorkspace&>(plan);
    ATTND_RETURN_IF_ERROR(MakePlan(params, machine_, mine.plan));
    mine.Reserve(mine.plan.partial_rows * PartialStride(params.key.head_dim_v));
    return absl::OkStatus();
  }

  absl::Status Launch(Stream&, const LaunchPlan& launch_plan,
                      const AttentionParams& params) override {
    const auto& mine = static_cast<const PlanWithWorkspace&>(launch_plan);
    const CpuPlan& plan = mine.plan;
    const auto item_of = [&](const auto& task) -> const AttentionItem& {
      return params.items[static_cast<size_t>(task.item)];
    };
    RunAll(plan.appends, NumAppended(plan) >= kParallelAppendTokens,
           [&](const AppendTask& task, int) {
             kernels_.append(AppendArgs{params, item_of(task), task});
           });
    RunAll(plan.attends, plan.multiply_adds >= kParallelMultiplyAdds,
           [&](const AttentionTask& task, int worker) {
             const TaskArgs args{params,
                                 item_of(task),
                                 task,
                                 plan.shape,
                                 scratch_[static_cast<size_t>(worker)].get(),
                                 mine.workspace()};
             KernelFor(args)(args);
           });
    RunAll(plan.merges, plan.partial_rows >= kParallelMergeRows, [&](const MergeTask& task, int) {
      kernels_.merge(MergeArgs{params, item_of(task), task, mine.workspace()});
    });
    return absl::OkStatus();
  }

 private:
  // By the item alone, or its bits would depend on the batch.
  CpuKernels::Attend KernelFor(const TaskArgs& args) const {
    const KernelKey& key = args.params.key;
    const auto kv = static_cast<size_t>(key.kv_dtype);
    if (args.task.decode) return kernels_.attend_decode[kv];
    if (args.item.options.dropout.enabled()) return kernels_.attend_tile[kv];
    const bool all_bf16 = key.q_dtype == DType::kBF16 && key.kv_dtype == DType::kBF16;
    switch (bf16_) {
      case Bf16Unit::kTile:
        return kernels_.attend_tile_amx[static_cast<size_t>(key.q_dtype)][kv];
      case Bf16Unit::kDot:
        return all_bf16 ? kernels_.attend_tile_dot : kernels_.attend_tile[kv];
      case Bf16Unit::kNone:
        return kernels_.attend_tile[kv];
    }
    return nullptr;
  }

  static int64_t NumAppended(const CpuPlan& plan) {
    int64_t tokens = 0;
    for (const AppendTask& task : plan.appends) tokens += task.token_end - task.token_begin;
    return tokens;
  }

  template <class Task, class F>
  void RunAll(const std::vector<Task>& tasks, bool parallel, F&& run) {
    pool_.Run(static_cast<int64_t>(tasks.size()), parallel ? pool_.num_threads() : 1,
              [&](int64_t i, int worker) { run(tasks[static_cast<size_t>(i)], worker); });
  }

  ThreadPool& pool_;
  const CpuMachine machine_;
  const CpuKernels& kernels_;
  const Bf16Unit bf16_;  // kNone where its kernels are not compiled in
  const Capabilities capabilities_;
  std::vector<AlignedFloats> scratch_;  // one a thread of the pool
};

}  // namespace

std::unique_ptr<AttentionBackend> MakeCpuBackend(CpuDevice& device,
                                                 const CpuBackendOptions& options) {
  return std::make_unique<CpuBackend>(device, options);
}

}  // namespace attnd
