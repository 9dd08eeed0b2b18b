// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention/capabilities.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace attnd {
namespace {

// "q=f32 kv=f16"
std::string DTypePair(DType q, DType kv) {
  std::string text = "q=";
  text += Name(q);
  text += " kv=";
  text += Name(kv);
  return text;
}

std::string ListDTypes(const Capabilities& capabilities) {
  return absl::StrJoin(capabilities.dtypes, ", ", [](std::string* out, const auto& pair) {
    *out += DTypePair(pair.first, pair.second);
  });
}

std::string ListHeadDims(const Capabilities& capabilities) {
  if (capabilities.any_head_dims) {
    const int32_t multiple = capabilities.head_dim_multiple;
    return absl::StrCat(multiple == 1 ? "any" : absl::StrCat("multiples of ", multiple), " up to ",
                        capabilities.max_head_dim);
  }
  return absl::StrJoin(capabilities.head_dims, ", ", [](std::string* out, const auto& pair) {
    absl::StrAppend(out, "dk=", pair.first, " dv=", pair.second);
  });
}

}  // namespace

absl::Status CheckSupported(const Capabilities& capabilities, const KernelKey& key) {
  const std::pair dtypes(key.q_dtype, key.kv_dtype);
  if (std::ranges::find(capabilities.dtypes, dtypes) == capabilities.dtypes.end()) {
    return absl::UnimplementedError(
        absl::StrCat("the ", capabilities.backend, " backend has no kernel for the dtypes ",
                     DTypePair(key.q_dtype, key.kv_dtype), "; it has: ", ListDTypes(capabilities)));
  }
  const std::pair dims(key.head_dim_k, key.head_dim_v);
  const auto in_range = [&](int32_t dim) {
    return dim >= 1 && dim <= capabilities.max_head_dim &&
           dim % capabilities.head_dim_multiple == 0;
  };
  const bool any = capabilities.any_head_dims && in_range(dims.first) && in_range(dims.second);
  if (!any && std::ranges::find(capabilities.head_dims, dims) == capabilities.head_dims.end()) {
    return absl::UnimplementedError(absl::StrCat(
        "the ", capabilities.backend, " backend has no kernel for head_dim_k=", dims.first,
        " head_dim_v=", dims.second, "; it has: ", ListHeadDims(capabilities)));
  }
  const FeatureSet missing = key.features.Minus(capabilities.features);
  if (!missing.empty()) {
    return absl::UnimplementedError(absl::StrCat("the ", capabilities.backend,
                                                 " backend lacks: ", ToString(missing),
                                                 "; it has: ", ToString(capabilities.features)));
  }
  return absl::OkStatus();
}

}  // namespace attnd
