// SPDX-License-Identifier: Apache-2.0
#include "kernels/hip/hip_backend.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/hip/device_items.h"
#include "kernels/hip/kernel_table.h"
#include "kernels/hip/launch.h"
#include "kernels/hip/plan.h"
#include "kernels/hip/upload_ring.h"

namespace attnd {
namespace {

Capabilities HipCapabilities(std::string architecture) {
  Capabilities capabilities;
  capabilities.backend = "hip";
  capabilities.isa = std::move(architecture);
  for (DType q : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (DType kv : {DType::kF32, DType::kF16, DType::kBF16}) {
      capabilities.dtypes.emplace_back(q, kv);
    }
  }
  for (int32_t dim : {32, 64, 80, 96, 128, 192, 256}) capabilities.head_dims.emplace_back(dim, dim);
  capabilities.head_dims.emplace_back(192, 128);
  capabilities.any_head_dims = true;
  capabilities.head_dim_multiple = gpu::kHeadDimMultiple;
  capabilities.max_head_dim = gpu::kMaxHeadDim;
  capabilities.max_page_size_tokens = gpu::kFar;
  for (Feature feature : kAllFeatures) capabilities.features.Add(feature);
  return capabilities;
}

class PlanHolder final : public LaunchPlan {
 public:
  HipPlan plan;
  std::vector<int> page_shifts;  // of each item
};

gpu::Type TypeOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return gpu::Type::kF32;
    case DType::kF16:
      return gpu::Type::kF16;
    case DType::kBF16:
      return gpu::Type::kBF16;
  }
  return gpu::Type::kF32;
}

class HipBackend final : public AttentionBackend {
 public:
  HipBackend(HipDevice& device, std::string architecture, gpu::Core core, int num_multiprocessors)
      : device_(device),
        core_(core),
        num_multiprocessors_(num_multiprocessors),
        table_(*gpu::KernelTableFor(core)),
        capabilities_(HipCapabilities(std::move(architecture))) {}

  absl::Status Init(const HipBackendOptions& options) {
    ATTND_RETURN_IF_ERROR(device_.Use());
    ATTND_ASSIGN_OR_RETURN(
        uploads_, UploadRing::Make(device_, table_.upload, options.launches, options.upload_bytes));
    ATTND_ASSIGN_OR_RETURN(workspace_, device_.Allocate(options.workspace_bytes));
    for (gpu::Compute compute : {gpu::Compute::kF16, gpu::Compute::kBF16, gpu::Compute::kF32}) {
      for (int dim : gpu::kHeadDims) {
        for (gpu::Phase phase : {gpu::Phase::kPrefill, gpu::Phase::kDecode}) {
          const auto lds =
              static_cast<size_t>(gpu::LdsLayoutFor(core_, compute, dim, phase).total_bytes);
          for (bool general : {false, true}) {
            ATTND_RETURN_IF_HIP_ERROR(
                device_.fence(), gpu::AllowLds(table_.attend(compute, dim, phase, general), lds));
          }
        }
      }
    }
    return absl::OkStatus();
  }

  const Capabilities& capabilities() const override { return capabilities_; }
  absl::Status Supports(const KernelKey& key) const override {
    return CheckSupported(capabilities_, key);
  }
  std::unique_ptr<LaunchPlan> NewPlan() const override { return std::make_unique<PlanHolder>(); }

  absl::Status Plan(const AttentionParams& params, LaunchPlan& plan) const override {
    ATTND_RETURN_IF_ERROR(Supports(params.key));
    auto& holder = static_cast<PlanHolder&>(plan);
    holder.page_shifts.clear();
    for (size_t i = 0; i < params.items.size(); ++i) {
      ATTND_RETURN_IF_ERROR(CheckAlignment(params, params.items[i], i));
      ATTND_ASSIGN_OR_RETURN(const int shift, PageShift(params.items[i], i));
      holder.page_shifts.push_back(shift);
    }
    return MakeHipPlan(params, core_, num_multiprocessors_, holder.plan);
  }

  absl::Status Launch(Stream& stream, const LaunchPlan& launch_plan,
                      const AttentionParams& params) override {
    const auto& holder = static_cast<const PlanHolder&>(launch_plan);
    const HipPlan& plan = holder.plan;
    auto& hip_stream = static_cast<HipStream&>(stream);
    ATTND_RETURN_IF_ERROR(hip_stream.Use());
    ATTND_RETURN_IF_ERROR(ReserveWorkspace(plan, params));
    ATTND_ASSIGN_OR_RETURN(UploadRing::Block * block, uploads_->Take(UploadSize(plan, params)));

    UploadWriter writer(*block);
    const Uploaded uploaded = Write(holder, params, writer);
    ATTND_RETURN_IF_ERROR(uploads_->Send(*block, writer.size(), hip_stream));
    ATTND_RETURN_IF_ERROR(LaunchAppends(plan, params, uploaded, hip_stream));
    for (gpu::Phase phase : {gpu::Phase::kPrefill, gpu::Phase::kDecode}) {
      ATTND_RETURN_IF_ERROR(LaunchAttends(plan, params, uploaded, phase, hip_stream));
    }
    return uploads_->Done(*block, hip_stream);
  }

 private:
  // Device addresses of what a launch reads.
  struct Uploaded {
    const gpu::Item* items;
    const gpu::AppendTask* appends;
    const gpu::AttendTask* attends[gpu::kNumPhases];
    const gpu::MergeRange* ranges;
    uint32_t* ended;
  };

  // A task is a block for each KV head.
  template <class Task>
  static unsigned NumBlocks(const std::vector<Task>& tasks, const AttentionParams& params) {
    return static_cast<unsigned>(tasks.size()) * static_cast<unsigned>(params.num_kv_heads);
  }

  static Bytes UploadSize(const HipPlan& plan, const AttentionParams& params) {
    const auto padded = [](const auto& tasks) {
      return UploadWriter::Padded(tasks.size() * sizeof(tasks[0]));
    };
    size_t bytes = UploadWriter::Padded(params.items.size() * sizeof(gpu::Item)) +
                   padded(plan.appends) + padded(plan.ranges) +
                   UploadWriter::Padded(NumBlocks(plan.ranges, params) * sizeof(uint32_t));
    for (const auto& attends : plan.attends) bytes += padded(attends);
    for (const AttentionItem& item : params.items) bytes += OptionBytes(params, item);
    return Bytes(bytes);
  }

  static Uploaded Write(const PlanHolder& holder, const AttentionParams& params,
                        UploadWriter& writer) {
    const HipPlan& plan = holder.plan;
    Uploaded uploaded;
    uploaded.items = writer.DeviceAddress<gpu::Item>();
    const std::span<gpu::Item> items = writer.Reserve<gpu::Item>(params.items.size());
    for (size_t i = 0; i < items.size(); ++i) {
      items[i] = UploadItem(params, params.items[i], holder.page_shifts[i], writer);
    }
    uploaded.appends = writer.Append(std::span<const gpu::AppendTask>(plan.appends));
    for (int phase = 0; phase < gpu::kNumPhases; ++phase) {
      uploaded.attends[phase] =
          writer.Append(std::span<const gpu::AttendTask>(plan.attends[phase]));
    }
    uploaded.ranges = writer.Append(std::span<const gpu::MergeRange>(plan.ranges));
    uploaded.ended = writer.DeviceAddress<uint32_t>();
    std::ranges::fill(writer.Reserve<uint32_t>(NumBlocks(plan.ranges, params)), 0);
    return uploaded;
  }

  static gpu::FastDivide KvHeads(const AttentionParams& params) {
    return gpu::FastDivide::By(static_cast<uint32_t>(params.num_kv_heads));
  }
  static gpu::FastDivide Group(const AttentionParams& params) {
    return gpu::FastDivide::By(static_cast<uint32_t>(params.num_query_heads / params.num_kv_heads));
  }

  // Chunks of 8 numbers.
  static gpu::FastDivide Chunks(int32_t head_dim, int32_t heads) {
    return gpu::FastDivide::By(static_cast<uint32_t>(head_dim / gpu::kHeadDimMultiple * heads));
  }

  // Splits come after one another on one stream: they share the workspace.
  absl::Status ReserveWorkspace(const HipPlan& plan, const AttentionParams& params) {
    const uint64_t bytes = static_cast<uint64_t>(plan.partial_rows) *
                           (static_cast<uint64_t>(params.key.head_dim_v) + 2) * sizeof(float);
    if (bytes <= workspace_.size().value()) return absl::OkStatus();
    const Bytes size(std::max(bytes, 2 * workspace_.size().value()));
    // Launches on their way may still use the old one: hipFree waits for them.
    workspace_ = Buffer();
    ATTND_ASSIGN_OR_RETURN(workspace_, device_.Allocate(size));
    return absl::OkStatus();
  }
  gpu::PartialResults Partial(const HipPlan& plan, const AttentionParams& params) const {
    auto* values = reinterpret_cast<float*>(workspace_.data());
    float* largest = values + plan.partial_rows * params.key.head_dim_v;
    return {values, largest, largest + plan.partial_rows};
  }

  absl::Status LaunchAppends(const HipPlan& plan, const AttentionParams& params,
                             const Uploaded& uploaded, HipStream& stream) {
    if (plan.appends.empty()) return absl::OkStatus();
    const gpu::AppendArgs args{
        .items = uploaded.items,
        .tasks = uploaded.appends,
        .chunks_k = Chunks(params.key.head_dim_k, 1),
        .chunks_k_of_token = Chunks(params.key.head_dim_k, params.num_kv_heads),
        .chunks_v = Chunks(params.key.head_dim_v, 1),
        .chunks_v_of_token = Chunks(params.key.head_dim_v, params.num_kv_heads),
        .q_type = TypeOf(params.key.q_dtype),
        .kv_type = TypeOf(params.key.kv_dtype)};
    ATTND_RETURN_IF_HIP_ERROR(
        stream.fence(), gpu::LaunchKernel(table_.append, static_cast<unsigned>(plan.appends.size()),
                                          gpu::kAppendThreads, 0, stream.handle(), args));
    return absl::OkStatus();
  }

  absl::Status LaunchAttends(const HipPlan& plan, const AttentionParams& params,
                             const Uploaded& uploaded, gpu::Phase phase, HipStream& stream) {
    const auto index = static_cast<size_t>(phase);
    if (plan.attends[index].empty()) return absl::OkStatus();
    const gpu::AttendArgs args{.items = uploaded.items,
                               .tasks = uploaded.attends[index],
                               .ranges = uploaded.ranges,
                               .ended = uploaded.ended,
                               .partial = Partial(plan, params),
                               .kv_heads = KvHeads(params),
                               .group = Group(params),
                               .chunks_v = Chunks(params.key.head_dim_v, 1),
                               .head_dim_k = params.key.head_dim_k,
                               .head_dim_v = params.key.head_dim_v,
                               .q_type = TypeOf(params.key.q_dtype),
                               .kv_type = TypeOf(params.key.kv_dtype)};
    const gpu::TileShape shape = gpu::TileShapeFor(core_, plan.compute, plan.head_dim, phase);
    const gpu::LdsLayout lds = gpu::LdsLayoutFor(core_, plan.compute, plan.head_dim, phase);
    ATTND_RETURN_IF_HIP_ERROR(
        stream.fence(),
        gpu::LaunchKernel(table_.attend(plan.compute, plan.head_dim, phase, plan.general),
                          NumBlocks(plan.attends[index], params),
                          static_cast<unsigned>(shape.threads(core_)),
                          static_cast<size_t>(lds.total_bytes), stream.handle(), args));
    return absl::OkStatus();
  }

  HipDevice& device_;
  const gpu::Core core_;
  const int num_multiprocessors_;
  const gpu::KernelTable& table_;
  const Capabilities capabilities_;
  std::unique_ptr<UploadRing> uploads_;
  Buffer workspace_;
};

}  // namespace

absl::StatusOr<gpu::Core> CoreOf(std::string_view architecture) {
  const std::string name(architecture.substr(0, architecture.find(':')));
  if (name == "gfx1100" || name == "gfx1101" || name == "gfx1102") return gpu::Core::kWmmaGfx11;
  if (name == "gfx1201") return gpu::Core::kWmmaGfx12;
  if (name == "gfx90a" || name == "gfx942") return gpu::Core::kMfma;
  if (name == "gfx950") return gpu::Core::kMfmaGfx950;
  if (absl::StartsWith(name, "sm_")) {
    int version = 0;
    if (absl::SimpleAtoi(name.substr(3), &version) && version >= 80) return gpu::Core::kNvMma;
  }
  return absl::UnimplementedError(
      absl::StrCat("no kernels for the architecture \"", name,
                   "\"; there are for gfx1100, gfx1101, gfx1102, gfx1201, gfx90a, gfx942, gfx950 "
                   "and sm_80 and up"));
}

absl::StatusOr<std::unique_ptr<AttentionBackend>> MakeHipBackend(HipDevice& device,
                                                                 const HipBackendOptions& options) {
  hipDeviceProp_t properties;
  ATTND_RETURN_IF_HIP_ERROR(device.fence(), hipGetDeviceProperties(&properties, device.ordinal()));
  ATTND_ASSIGN_OR_RETURN(const gpu::Core core, CoreOf(properties.gcnArchName));
  if (gpu::KernelTableFor(core) == nullptr) {
    return absl::UnimplementedError(
        absl::StrCat("this build has no kernels for ", properties.gcnArchName));
  }
  auto backend = std::make_unique<HipBackend>(device, properties.gcnArchName, core,
                                              properties.multiProcessorCount);
  ATTND_RETURN_IF_ERROR(backend->Init(options));
  return backend;
}

}  // namespace attnd
