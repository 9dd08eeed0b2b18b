// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu_backend.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/dtype.h"
#include "kernels/base/status_macros.h"
#include "kernels/cpu/attention_reference.h"
#include "kernels/cpu/cpu_isa.h"

namespace attnd {
namespace {

Capabilities CpuCapabilities() {
  Capabilities capabilities;
  capabilities.backend = "cpu";
  capabilities.isa = DispatchedIsa();
  for (DType q : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (DType kv : {DType::kF32, DType::kF16, DType::kBF16})
      capabilities.dtypes.emplace_back(q, kv);
  }
  for (int32_t dim : {32, 64, 80, 96, 128, 192, 256}) capabilities.head_dims.emplace_back(dim, dim);
  capabilities.head_dims.emplace_back(192, 128);
  capabilities.any_head_dims = true;
  capabilities.max_head_dim = 256;
  capabilities.max_page_size_tokens = int64_t{1} << 32;
  for (Feature feature : kAllFeatures) capabilities.features.Add(feature);
  return capabilities;
}

class CpuPlan final : public LaunchPlan {};

class CpuBackend final : public AttentionBackend {
 public:
  explicit CpuBackend(CpuDevice& device) : pool_(device.pool()) {}

  const Capabilities& capabilities() const override { return capabilities_; }
  absl::Status Supports(const KernelKey& key) const override {
    return CheckSupported(capabilities_, key);
  }
  std::unique_ptr<LaunchPlan> NewPlan() const override { return std::make_unique<CpuPlan>(); }

  absl::Status Plan(const AttentionParams& params, LaunchPlan&) const override {
    return Supports(params.key);
  }

  absl::Status Launch(Stream&, const LaunchPlan&, const AttentionParams& params) override {
    for (const AttentionItem& item : params.items) ReferenceAppend(params, item);
    pool_.Run(static_cast<int64_t>(params.items.size()), pool_.num_threads(),
              [&](int64_t i, int) { Attend(params, params.items[static_cast<size_t>(i)]); });
    return absl::OkStatus();
  }

 private:
  static void Attend(const AttentionParams& params, const AttentionItem& item) {
    if (item.q.data == nullptr) return;
    const int64_t rows = item.query_len * params.num_query_heads;
    std::vector<double> out(static_cast<size_t>(rows * params.key.head_dim_v));
    std::vector<double> lse(static_cast<size_t>(rows));
    ReferenceAttention(params, item, out.data(), lse.data());
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t i = row / params.num_query_heads, h = row % params.num_query_heads;
      const int64_t o = i * item.out.token_stride_elems + h * item.out.head_stride_elems;
      for (int64_t d = 0; d < params.key.head_dim_v; ++d) {
        StoreFromFloat(
            params.key.q_dtype, item.out.data, o + d,
            static_cast<float>(out[static_cast<size_t>(row * params.key.head_dim_v + d)]));
      }
      if (item.lse.data != nullptr) {
        item.lse.data[i * item.lse.token_stride_elems + h * item.lse.head_stride_elems] =
            static_cast<float>(lse[static_cast<size_t>(row)]);
      }
    }
  }

  const Capabilities capabilities_ = CpuCapabilities();
  ThreadPool& pool_;
};

}  // namespace

std::unique_ptr<AttentionBackend> MakeCpuBackend(CpuDevice& device) {
  return std::make_unique<CpuBackend>(device);
}

}  // namespace attnd
