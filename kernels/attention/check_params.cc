// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention/check_params.h"

#include <cstddef>

#include "absl/strings/str_cat.h"

namespace attnd {

absl::Status CheckShapes(const AttentionParams& params) {
  if (params.num_kv_heads < 1 || params.num_query_heads < 1 ||
      params.num_query_heads % params.num_kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(params.num_query_heads, " query heads over ",
                                                   params.num_kv_heads,
                                                   " KV heads: one must divide the other"));
  }
  for (size_t i = 0; i < params.items.size(); ++i) {
    const AttentionItem& item = params.items[i];
    const auto invalid = [i](const auto&... parts) {
      return absl::InvalidArgumentError(absl::StrCat("item ", i, ": ", parts...));
    };
    if (item.query_len < 0 || item.kv_len < 0) {
      return invalid("query_len=", item.query_len, " kv_len=", item.kv_len);
    }
    if (item.kv_len > 0 && item.kv.page_size_tokens < 1) {
      return invalid("page_size_tokens=", item.kv.page_size_tokens);
    }
    if ((item.new_k.data == nullptr) != (item.new_v.data == nullptr)) {
      return invalid("new_k and new_v come together");
    }
    if (item.new_k.data != nullptr &&
        (item.start_position < 0 || item.start_position + item.query_len > item.kv_len)) {
      return invalid("writes [", item.start_position, ", ", item.start_position + item.query_len,
                     ") of ", item.kv_len, " keys");
    }
  }
  return absl::OkStatus();
}

}  // namespace attnd
