// SPDX-License-Identifier: Apache-2.0
//
// The executable specification of attention: what every kernel is compared with.
//
// Written to be read, in fp64, one query row at a time, with no tiles and no online softmax. Where
// this file and a kernel disagree, the kernel is wrong. Thread safety: pure functions of their
// arguments, except that ReferenceAppend writes the pages of its item.
//
//   ReferenceAppend(params, item);
//   std::vector<double> out(item.query_len * params.num_query_heads * key.head_dim_v);
//   ReferenceAttention(params, item, out.data(), /*lse=*/nullptr);
#pragma once

#include "kernels/attention/params.h"

namespace attnd {

// Writes the item's new_k and new_v, converted to the KV dtype, at its start_position. Nothing for
// a read-only item. Reads only the key and the head counts of `params`, not its items.
void ReferenceAppend(const AttentionParams& params, const AttentionItem& item);

// Attends the item's queries over the keys that its KvView holds. Writes no page.
//   out: [query_len, num_query_heads, head_dim_v], row-major
//   lse: [query_len, num_query_heads], row-major, or null
void ReferenceAttention(const AttentionParams& params, const AttentionItem& item, double* out,
                        double* lse);

}  // namespace attnd
