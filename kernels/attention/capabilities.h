// SPDX-License-Identifier: Apache-2.0
//
// What a backend can do, as data: the source of Supports(), GetCapabilities and the matrix that the
// conformance suite walks cell by cell.
//
//   absl::Status status = CheckSupported(backend.capabilities(), key);
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "kernels/attention/kernel_key.h"

namespace attnd {

struct Capabilities {
  std::string backend;  // "cpu", "hip"
  std::string isa;      // what it dispatches to at run time: "AVX3+amx-bf16", "gfx1100"
  std::vector<std::pair<DType, DType>> dtypes;         // (q, kv)
  std::vector<std::pair<int32_t, int32_t>> head_dims;  // (k, v)
  bool any_head_dims = false;     // head_dims lists the tuned ones; others work up to max_head_dim
  int32_t head_dim_multiple = 1;  // of which those others are multiples
  int32_t max_head_dim = 0;
  int64_t max_page_size_tokens = 0;
  FeatureSet features;
};

// OK, or UNIMPLEMENTED naming the first capability that is missing and what there is instead.
absl::Status CheckSupported(const Capabilities& capabilities, const KernelKey& key);

}  // namespace attnd
