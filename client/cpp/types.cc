// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/types.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "client/cpp/internal/concat.h"

namespace attnd::client {

std::string Id::ToString() const { return absl::StrFormat("%08x:%x", boot >> 32, handle); }

std::string CacheGeometry::ToString() const {
  std::string dims = Concat(head_dim_k);
  if (value_dim() != head_dim_k) dims += Concat("/", head_dim_v);
  return Concat(num_layers, " layers, ", num_query_heads, "/", num_kv_heads, " heads, dim ", dims,
                ", ", Name(kv_dtype), ", pages of ", page_size_tokens);
}

int64_t SequenceInfo::min_length() const {
  return layer_lengths.empty() ? 0 : *std::min_element(layer_lengths.begin(), layer_lengths.end());
}

bool Capabilities::Has(const std::string& feature) const {
  return std::find(features.begin(), features.end(), feature) != features.end();
}

}  // namespace attnd::client
