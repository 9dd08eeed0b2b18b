// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention/kernel_key.h"

namespace attnd {

std::string_view Name(Feature feature) {
  switch (feature) {
    case Feature::kCausal:
      return "causal";
    case Feature::kWindow:
      return "window";
    case Feature::kSoftcap:
      return "softcap";
    case Feature::kAlibi:
      return "alibi";
    case Feature::kSinks:
      return "sinks";
    case Feature::kTreeMask:
      return "tree_mask";
    case Feature::kDropout:
      return "dropout";
    case Feature::kLse:
      return "lse";
  }
  return "?";
}

std::string ToString(FeatureSet features) {
  std::string joined;
  for (Feature feature : kAllFeatures) {
    if (!features.Has(feature)) continue;
    if (!joined.empty()) joined += '+';
    joined += Name(feature);
  }
  return joined.empty() ? "none" : joined;
}

std::string ToString(const KernelKey& key) {
  std::string text = "q=";
  text += Name(key.q_dtype);
  text += " kv=";
  text += Name(key.kv_dtype);
  text += " dk=";
  text += std::to_string(key.head_dim_k);
  text += " dv=";
  text += std::to_string(key.head_dim_v);
  if (!key.features.empty()) {
    text += ' ';
    text += ToString(key.features);
  }
  return text;
}

}  // namespace attnd
