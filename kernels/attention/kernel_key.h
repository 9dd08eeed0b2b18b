// SPDX-License-Identifier: Apache-2.0
//
// What selects a kernel. Everything that is compiled in is here; everything else is in
// AttentionParams. Compared by value, never by name.
//
//   KernelKey key{.q_dtype = DType::kF32, .kv_dtype = DType::kF16, .head_dim_k = 64, .head_dim_v =
//   64}; absl::Status status = backend.Supports(key);   // UNIMPLEMENTED says which capability is
//   missing
#pragma once

#include <compare>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "kernels/base/dtype.h"

namespace attnd {

// Options that a backend may lack. A bit set, so that a key is hashable and printable.
enum class Feature : uint32_t {
  kCausal = 1u << 0,
  kWindow = 1u << 1,
  kSoftcap = 1u << 2,
  kAlibi = 1u << 3,
  kSinks = 1u << 4,
  kTreeMask = 1u << 5,
  kDropout = 1u << 6,
  kLse = 1u << 7,
};
inline constexpr Feature kAllFeatures[] = {Feature::kCausal,  Feature::kWindow, Feature::kSoftcap,
                                           Feature::kAlibi,   Feature::kSinks,  Feature::kTreeMask,
                                           Feature::kDropout, Feature::kLse};

class FeatureSet {
 public:
  constexpr FeatureSet() = default;
  constexpr FeatureSet(std::initializer_list<Feature> features) {
    for (Feature feature : features) Add(feature);
  }

  constexpr void Add(Feature feature) { bits_ |= static_cast<uint32_t>(feature); }
  constexpr bool Has(Feature feature) const {
    return (bits_ & static_cast<uint32_t>(feature)) != 0;
  }
  // The features of this set that `other` lacks.
  constexpr FeatureSet Minus(FeatureSet other) const { return FeatureSet(bits_ & ~other.bits_); }
  constexpr bool empty() const { return bits_ == 0; }
  constexpr uint32_t bits() const { return bits_; }
  friend constexpr auto operator<=>(FeatureSet, FeatureSet) = default;

 private:
  constexpr explicit FeatureSet(uint32_t bits) : bits_(bits) {}
  uint32_t bits_ = 0;
};

std::string_view Name(Feature feature);     // "causal", "window", ...
std::string ToString(FeatureSet features);  // "causal+lse", "none"

struct KernelKey {
  DType q_dtype = DType::kF32;  // of q, new k and v, and out
  DType kv_dtype = DType::kF32;
  int32_t head_dim_k = 0;
  int32_t head_dim_v = 0;
  FeatureSet features;

  friend constexpr auto operator<=>(const KernelKey&, const KernelKey&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const KernelKey& k) {
    return H::combine(std::move(h), k.q_dtype, k.kv_dtype, k.head_dim_k, k.head_dim_v,
                      k.features.bits());
  }
};

std::string ToString(const KernelKey& key);  // "q=f32 kv=f16 dk=64 dv=64 causal"

}  // namespace attnd
